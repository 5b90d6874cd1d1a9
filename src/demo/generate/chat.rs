//! The messages of one generated slice: JSON as a chat would have it, with
//! users, bots, threads, edits and a few that vanish.

use std::fmt::Write as _;

use zeroize::Zeroizing;

use super::{GeneratedMessage, PlannedSlice, Random, mix};
use crate::clock::WriteTime;
use crate::ids::{ChannelId, Hour, RecordId};
use crate::import::ImportedMessage;

const HOUR_US: u64 = 3_600_000_000;

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
    pub(super) fn new(slice: &PlannedSlice, seed: u64, expiries_from_s: Option<u32>) -> Self {
        Self {
            channel: slice.channel(),
            hour: slice.hour,
            hour_us: slice.hour.start_unix_seconds() * 1_000_000,
            step_us: HOUR_US / u64::from(slice.messages.max(1)),
            count: slice.messages,
            next: 0,
            seed,
            random: Random(seed),
            thread: None,
            expiries_from_s,
        }
    }

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
