//! What a command prints: tables and lines for people, or one JSON document for
//! programs. docs/cli.md documents the JSON; its fields are only ever added to.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, TableStyle};

use crate::cli::report::{self, Failure};

/// The form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Where output goes, and in which form.
#[derive(Debug, Clone, Copy)]
pub(super) struct Out {
    form: Form,
}

impl Out {
    pub fn new(form: Form) -> Self {
        Self { form }
    }

    pub fn is_json(self) -> bool {
        self.form == Form::Json
    }

    /// Prints for people with `people`, or the JSON of `programs`.
    pub fn show(
        self,
        programs: &serde_json::Value,
        people: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        match self.form {
            Form::Json => line(&programs.to_string()),
            Form::Table => line(&people()),
        }
    }

    /// Whether people look at lines that are redrawn.
    pub fn is_live(self) -> bool {
        self.form == Form::Table && io::stdout().is_terminal()
    }

    /// A line for people only.
    pub fn say(self, text: &str) -> Result<(), Failure> {
        match self.form {
            Form::Json => Ok(()),
            Form::Table => line(text),
        }
    }
}

/// Writes text and a line's end. A reader that went away (`rekeyd jobs | head`)
/// ends the command quietly.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    write(&mut out, format_args!("{}\n", text.trim_end_matches('\n')))
}

/// Writes over the line that stands there. What does not fit on it is cut: a
/// second line would be left behind by the next one.
pub(super) fn redraw(text: &str) -> Result<(), Failure> {
    let columns = rustix::termios::tcgetwinsize(io::stdout()).map_or(0, |size| size.ws_col);
    let text = within(text, usize::from(columns));
    // Back to the start of the line, erase it, write.
    write(&mut io::stdout().lock(), format_args!("\r\x1b[2K{text}"))
}

/// As much of a text as so many columns hold; 0: their number is not known.
fn within(text: &str, columns: usize) -> String {
    if columns < 2 || text.chars().count() < columns {
        return text.to_owned();
    }
    let start: String = text.chars().take(columns - 2).collect();
    start + "…"
}

fn write(out: &mut impl Write, text: std::fmt::Arguments<'_>) -> Result<(), Failure> {
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::reader_gone()),
        Err(error) => Err(report::system("cannot write to standard output", error)),
    }
}

/// A table without lines around it, which copies and greps well.
pub(super) fn table<const N: usize>(
    head: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table
        .load_style(TableStyle::new())
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(head.map(str::to_uppercase));
    for row in rows {
        table.add_row(row);
    }
    let text = table.to_string();
    // Each cell is padded by a space on either side.
    let lines: Vec<&str> = text
        .lines()
        .map(|l| l.strip_prefix(' ').unwrap_or(l).trim_end())
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_redrawn_fits_the_terminal() {
        assert_eq!(within("rekey acme", 0), "rekey acme");
        assert_eq!(within("rekey acme", 11), "rekey acme");
        assert_eq!(within("rekey acme", 10), "rekey ac…");
        assert_eq!(within("é".repeat(50).as_str(), 20).chars().count(), 19);
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let failure = write(&mut Gone, format_args!("x")).unwrap_err();
        assert_eq!(failure.exit, crate::cli::exit::Exit::Done);
    }
}
