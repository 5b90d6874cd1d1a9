//! What a person who watches the demo sees: lines with the time in front, one
//! live line on a terminal, and nothing else.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often the live line becomes a line of its own where there is no terminal.
const PLAIN_EVERY: Duration = Duration::from_secs(2);
/// How often the live line is drawn anew on a terminal.
const DRAWN_EVERY: Duration = Duration::from_millis(100);
/// Columns in front of the text: the time and the step's name.
const NAME_WIDTH: usize = 9;

/// Writes to standard output.
pub struct Show {
    began: Instant,
    terminal: bool,
    live: bool,
    last_plain: Instant,
    last_drawn: Instant,
}

impl Show {
    /// For standard output as it is.
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            terminal: io::stdout().is_terminal(),
            live: false,
            last_plain: Instant::now(),
            last_drawn: Instant::now(),
        }
    }

    /// Time since the demo began.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// The first line of a step.
    pub fn step(&mut self, name: &str, text: &str) {
        // Time enough until the first plain line of progress.
        self.last_plain = Instant::now();
        self.put(&format!("{}  {name:<NAME_WIDTH$}{text}", self.time()));
    }

    /// A further line of a step, at its time.
    pub fn note(&mut self, text: &str) {
        self.step("", text);
    }

    /// A line under the one before, without a time.
    pub fn detail(&mut self, text: &str) {
        self.put(&format!("{:9}{:NAME_WIDTH$}{text}", "", ""));
    }

    /// A line as it is.
    pub fn plain(&mut self, text: &str) {
        self.put(text);
    }

    /// A line that the next one replaces, on a terminal; elsewhere a line every
    /// two seconds.
    pub fn live(&mut self, text: &str) {
        if self.terminal {
            if self.live && self.last_drawn.elapsed() < DRAWN_EVERY {
                return;
            }
            self.last_drawn = Instant::now();
            let line = format!("{}  {:NAME_WIDTH$}{text}", self.time(), "");
            // A line that wraps could not be taken back.
            let line: String = line.chars().take(width()).collect();
            self.write(&format!("\r\x1b[2K{line}"));
            self.live = true;
        } else if self.last_plain.elapsed() >= PLAIN_EVERY {
            self.note(text);
        }
    }

    fn time(&self) -> String {
        format!("{:5.1} s", self.began.elapsed().as_secs_f64())
    }

    fn put(&mut self, line: &str) {
        let clear = if self.live { "\r\x1b[2K" } else { "" };
        self.live = false;
        self.write(&format!("{clear}{line}\n"));
    }

    /// Nobody may be reading any more; the demo goes on and says so by its exit
    /// code.
    fn write(&self, text: &str) {
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

impl Default for Show {
    fn default() -> Self {
        Self::new()
    }
}

/// Columns of the terminal.
fn width() -> usize {
    rustix::termios::tcgetwinsize(io::stdout())
        .ok()
        .map(|size| usize::from(size.ws_col))
        .filter(|columns| *columns > 20)
        .unwrap_or(100)
}

/// A number with separators: `100,000`.
pub fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// A number with its noun: `1 slice`, `2,000 slices`.
pub fn count(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", number(n), if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_threes() {
        for (n, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (100_000, "100,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(number(n), text);
        }
        assert_eq!(count(1, "row", "rows"), "1 row");
        assert_eq!(count(0, "row", "rows"), "0 rows");
    }
}
