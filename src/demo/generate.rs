//! Messages for demo, tests and benches: as many as wanted, alike on every
//! machine for one seed, in slices of the sizes that real ones have.
//!
//! In a real export 20,000 messages lie in 3,266 channel-hours, 6.1 to a slice:
//! a few messages an hour in most channels, hundreds in a few. That shape
//! decides how many KMS calls a rekey needs, so [`Shape::Realistic`] keeps it.
//! Nothing here is a secret, and the random numbers are fit for nothing else.

use std::fmt::Write as _;

use zeroize::Zeroizing;

use crate::clock::WriteTime;
use crate::ids::{ChannelId, Hour, RecordId};
use crate::import::ImportedMessage;

/// How messages are spread over slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// About six messages to a slice, in a few busy channels and many quiet ones.
    Realistic,
    /// This many messages in every slice; the last one takes what is left.
    Even {
        /// Messages in one slice; 0 counts as 1.
        per_slice: u32,
    },
    /// All messages in one slice.
    OneSlice,
}

/// What to generate. Equal values give equal messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// Another seed gives other messages.
    pub seed: u64,
    /// How many messages, at most 2^31.
    pub messages: u32,
    /// How they lie in slices.
    pub shape: Shape,
    /// Expiries are counted from here, in Unix seconds, and lie 1 to 90 days
    /// later: far enough for a demo to end before them. `None`: none expires.
    pub expiries_from_s: Option<u32>,
}

/// A message, and when it is to vanish.
#[derive(Debug)]
pub struct GeneratedMessage {
    /// The message, as an import would yield it.
    pub message: ImportedMessage,
    /// Unix seconds for the cell's header; `None` for a lasting message.
    pub expiry_s: Option<u32>,
}

/// One slice to be: a channel, an hour and how many messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlannedSlice {
    channel: u32,
    hour: Hour,
    /// Messages in the slice.
    pub messages: u32,
}

impl PlannedSlice {
    /// The channel. Ids ascend as their numbers do.
    pub fn channel(&self) -> ChannelId {
        ChannelId::new(format!("C{:09}", self.channel)).expect("a letter and ten digits at most")
    }

    /// The hour.
    pub fn hour(&self) -> Hour {
        self.hour
    }

    /// The messages of this slice, by ascending record id. They depend on the
    /// recipe and the slice alone, so slices can be made in any order and by
    /// many threads.
    pub fn messages(&self, recipe: &Recipe) -> SliceMessages {
        let hour_s = self.hour.start_unix_seconds();
        let seed = mix(recipe.seed ^ mix((u64::from(self.channel) << 32) ^ (hour_s / 3600)));
        SliceMessages {
            channel: self.channel(),
            hour: self.hour,
            hour_us: hour_s * 1_000_000,
            step_us: HOUR_US / u64::from(self.messages.max(1)),
            count: self.messages,
            next: 0,
            seed,
            random: Random(seed),
            thread: None,
            expiries_from_s: recipe.expiries_from_s,
        }
    }
}

impl Recipe {
    /// The slices in ascending order of channel and hour. Cheap: no message is
    /// made for it.
    pub fn plan(&self) -> Plan {
        Plan {
            random: Random(mix(self.seed)),
            shape: self.shape,
            left: self.messages,
            channel: 0,
            hours_left: 0,
            busy: false,
            hour: Hour::of_unix_seconds(FIRST_HOUR_S).expect("an hour of 2019"),
        }
    }

    /// How many slices [`Recipe::messages`] fills.
    pub fn slices(&self) -> u64 {
        self.plan().count() as u64
    }

    /// All messages, by channel, hour and record id, made one at a time.
    pub fn messages(&self) -> impl Iterator<Item = GeneratedMessage> + use<> {
        let recipe = self.clone();
        self.plan().flat_map(move |slice| slice.messages(&recipe))
    }
}

/// 2019-02-11T08, a Monday. Everything generated lies in the past.
const FIRST_HOUR_S: u64 = 1_549_872_000;
const HOUR_US: u64 = 3_600_000_000;
/// Slices of one channel, before the next channel begins.
const HOURS_OF_A_CHANNEL: u64 = 150;

/// See [`Recipe::plan`].
#[derive(Debug, Clone)]
pub struct Plan {
    random: Random,
    shape: Shape,
    left: u32,
    channel: u32,
    hours_left: u64,
    busy: bool,
    hour: Hour,
}

impl Plan {
    fn next_channel(&mut self) {
        self.channel += 1;
        // The first channel is a busy one, so that small runs have one too.
        self.busy = self.channel % 25 == 1;
        let days = match self.shape {
            Shape::Realistic => {
                self.hours_left = HOURS_OF_A_CHANNEL / 2 + self.random.below(HOURS_OF_A_CHANNEL);
                self.random.below(60)
            }
            Shape::Even { .. } | Shape::OneSlice => {
                self.hours_left = HOURS_OF_A_CHANNEL;
                0
            }
        };
        self.hour = hour_at(FIRST_HOUR_S + days * 86_400);
    }

    /// Messages of the next slice. The mean is 6.1: of the slices of a busy
    /// channel, which is one of 25, a quarter has 100 to 400 messages.
    fn size(&mut self) -> u32 {
        match self.shape {
            Shape::OneSlice => self.left,
            Shape::Even { per_slice } => per_slice.max(1),
            Shape::Realistic if self.busy && self.random.one_in(4) => {
                100 + self.random.below(301) as u32
            }
            Shape::Realistic => {
                // Geometric with a mean of 3.65.
                let mut n = 1;
                while n < 60 && self.random.below(1000) >= 274 {
                    n += 1;
                }
                n
            }
        }
    }
}

impl Iterator for Plan {
    type Item = PlannedSlice;

    fn next(&mut self) -> Option<PlannedSlice> {
        if self.left == 0 {
            return None;
        }
        if self.hours_left == 0 {
            self.next_channel();
        } else {
            let gap = match self.shape {
                // People sleep: after some hours of talk comes a pause.
                Shape::Realistic if self.random.one_in(8) => 10 + self.random.below(8),
                Shape::Realistic => 1 + self.random.below(2),
                Shape::Even { .. } | Shape::OneSlice => 1,
            };
            self.hour = hour_at(self.hour.start_unix_seconds() + gap * 3600);
        }
        self.hours_left -= 1;
        let messages = self.size().min(self.left);
        self.left -= messages;
        Some(PlannedSlice {
            channel: self.channel,
            hour: self.hour,
            messages,
        })
    }
}

fn hour_at(seconds: u64) -> Hour {
    Hour::of_unix_seconds(seconds).expect("some months after the first hour")
}

/// A thread that is being written: its parent and how many replies are to come.
#[derive(Debug, Clone, Copy)]
struct Thread {
    parent: u32,
    replies: u32,
}

/// See [`PlannedSlice::messages`].
#[derive(Debug)]
pub struct SliceMessages {
    channel: ChannelId,
    hour: Hour,
    hour_us: u64,
    step_us: u64,
    count: u32,
    next: u32,
    seed: u64,
    random: Random,
    thread: Option<Thread>,
    expiries_from_s: Option<u32>,
}

impl SliceMessages {
    /// When a message was written: spread over the hour, ascending, and known
    /// before the message is made, for a parent names its replies.
    fn written_us(&self, index: u32) -> u64 {
        let jitter = mix(self.seed ^ u64::from(index)) % self.step_us;
        self.hour_us + u64::from(index) * self.step_us + jitter
    }

    fn user_of(&self, index: u32) -> u64 {
        mix(self.seed ^ 0x55 ^ (u64::from(index) << 8)) % 400
    }
}

impl Iterator for SliceMessages {
    type Item = GeneratedMessage;

    fn next(&mut self) -> Option<GeneratedMessage> {
        if self.next == self.count {
            return None;
        }
        let index = self.next;
        self.next += 1;
        let written_us = self.written_us(index);
        let ts = Ts(written_us);
        let replies_to = self.thread.map(|thread| thread.parent);
        self.thread = self
            .thread
            .filter(|thread| thread.replies > 1)
            .map(|thread| Thread {
                replies: thread.replies - 1,
                ..thread
            });

        let random = &mut self.random;
        let bot = random.one_in(25);
        let words = words(random);
        // A `write!` to a String cannot fail, so its result is dropped below.
        let mut json = String::with_capacity(2 * words.len() + 640);
        json.push_str("{\"type\":\"message\",");
        if bot {
            let bot = random.below(9);
            let _ = write!(
                json,
                "\"subtype\":\"bot_message\",\"bot_id\":\"B{bot:08}\","
            );
        } else {
            let (high, low) = (random.next(), random.next());
            let user = self.user_of(index);
            let _ = write!(
                json,
                "\"client_msg_id\":\"{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}\",\"user\":\"U{user:08}\",",
                high >> 32,
                high & 0xffff,
                (high >> 16) & 0xfff,
                low >> 52,
                low & 0xffff_ffff_ffff,
            );
        }
        let _ = write!(
            json,
            "\"ts\":\"{ts}\",\"team\":\"T00000001\",\"text\":\"{words}\""
        );
        if !bot {
            let block = self.random.next() & 0xf_ffff;
            let _ = write!(
                json,
                ",\"blocks\":[{{\"type\":\"rich_text\",\"block_id\":\"{block:05x}\",\"elements\":\
                 [{{\"type\":\"rich_text_section\",\"elements\":[{{\"type\":\"text\",\"text\":\
                 \"{words}\"}}]}}]}}]"
            );
        }
        let after = self.count - self.next;
        if let Some(parent) = replies_to {
            let (ts, user) = (Ts(self.written_us(parent)), self.user_of(parent));
            let _ = write!(
                json,
                ",\"thread_ts\":\"{ts}\",\"parent_user_id\":\"U{user:08}\""
            );
        } else if after > 0 && self.random.one_in(12) {
            let replies = (1 + self.random.below(4) as u32).min(after);
            self.thread = Some(Thread {
                parent: index,
                replies,
            });
            let _ = write!(
                json,
                ",\"thread_ts\":\"{ts}\",\"reply_count\":{replies},\"replies\":["
            );
            for reply in index + 1..=index + replies {
                let comma = if reply == index + 1 { "" } else { "," };
                let (ts, user) = (Ts(self.written_us(reply)), self.user_of(reply));
                let _ = write!(json, "{comma}{{\"user\":\"U{user:08}\",\"ts\":\"{ts}\"}}");
            }
            json.push(']');
        }
        let mut last_us = written_us;
        if self.random.one_in(30) {
            last_us += 1_000_000 * (5 + self.random.below(86_400));
            let (user, ts) = (self.user_of(index), Ts(last_us));
            let _ = write!(
                json,
                ",\"edited\":{{\"user\":\"U{user:08}\",\"ts\":\"{ts}\"}}"
            );
        }
        json.push('}');

        let vanishes = self.random.one_in(100);
        let after_s = 86_400 + self.random.below(89 * 86_400) as u32;
        let expiry_s = self
            .expiries_from_s
            .filter(|_| vanishes)
            .map(|from| from.saturating_add(after_s));
        Some(GeneratedMessage {
            message: ImportedMessage {
                channel: self.channel.clone(),
                hour: self.hour,
                record: RecordId::new(ts.to_string()).expect("17 bytes"),
                write_time: WriteTime(last_us as i64),
                json: Zeroizing::new(json.into_bytes()),
            },
            expiry_s,
        })
    }
}

/// A time as Slack writes it.
#[derive(Clone, Copy)]
struct Ts(u64);

impl std::fmt::Display for Ts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// Words of no language. None needs an escape in JSON.
const WORDS: [&str; 64] = [
    "alimo",
    "bren",
    "cadu",
    "delka",
    "emro",
    "faltin",
    "gorsa",
    "hevi",
    "ilmar",
    "jotte",
    "kesk",
    "lumar",
    "midra",
    "nolu",
    "orvex",
    "pell",
    "quon",
    "rasti",
    "selmo",
    "tavi",
    "ubrin",
    "velto",
    "wex",
    "xanu",
    "yorri",
    "zelk",
    "ambor",
    "bilto",
    "cron",
    "dusta",
    "ekvi",
    "fronu",
    "gelt",
    "hulmi",
    "isto",
    "jarv",
    "kolpa",
    "lenti",
    "mursk",
    "naddo",
    "ospri",
    "panu",
    "quilt",
    "rempo",
    "skavi",
    "trell",
    "umbi",
    "vorna",
    "wilk",
    "xoru",
    "yamt",
    "zubri",
    "ødel",
    "brñu",
    "cæli",
    "düppe",
    "éfra",
    "gåmo",
    "łonka",
    "шома",
    "ξερα",
    "日川",
    "नोली",
    "🦔",
];

/// A message's text: mostly a line or two, now and then a page.
fn words(random: &mut Random) -> String {
    let count = match random.below(100) {
        0..=84 => 2 + random.below(16),
        85..=97 => 18 + random.below(50),
        _ => 68 + random.below(300),
    };
    let mut text = String::with_capacity(count as usize * 7);
    for n in 0..count {
        if n > 0 {
            text.push_str(if random.one_in(9) { ", " } else { " " });
        }
        text.push_str(WORDS[random.below(WORDS.len() as u64) as usize]);
    }
    text
}

/// SplitMix64, written out because a run must not change with a dependency.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `n`, near enough to even for text.
    fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// The output function of SplitMix64: spreads every bit over all bits.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
