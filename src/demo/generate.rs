//! Messages for demo, tests and benches: as many as wanted, alike on every
//! machine for one seed, in slices of the sizes that real ones have.
//!
//! In a real export 20,000 messages lie in 3,266 channel-hours, 6.1 to a slice:
//! a few messages an hour in most channels, hundreds in a few. That shape
//! decides how many KMS calls a rekey needs, so [`Shape::Realistic`] keeps it.
//! Nothing here is a secret, and the random numbers are fit for nothing else.

mod chat;

use crate::ids::{ChannelId, Hour};
use crate::import::ImportedMessage;

pub use self::chat::SliceMessages;

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
    /// How many messages; at most 2^31, for an hour has not many more
    /// microseconds to tell them apart by.
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
        let hours = self.hour.start_unix_seconds() / 3600;
        let seed = mix(recipe.seed ^ mix((u64::from(self.channel) << 32) ^ hours));
        SliceMessages::new(self, seed, recipe.expiries_from_s)
    }
}

impl Recipe {
    /// The slices in ascending order of channel and hour. Cheap: no message is
    /// made for it.
    ///
    /// # Panics
    /// If more than 2^31 messages are asked for.
    pub fn plan(&self) -> Plan {
        assert!(self.messages <= 1 << 31, "at most 2^31 messages");
        let slices = u64::from(self.messages) * 10 / 61;
        Plan {
            channel_hours: (slices / CHANNELS_TO_A_BUSY_ONE).clamp(6, MAX_CHANNEL_HOURS),
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
/// One channel of so many is a busy one.
const CHANNELS_TO_A_BUSY_ONE: u64 = 25;
/// Slices of one channel, about, before the next channel begins. Small runs have
/// shorter channels, or the first busy one would swallow them.
const MAX_CHANNEL_HOURS: u64 = 150;

/// See [`Recipe::plan`].
#[derive(Debug, Clone)]
pub struct Plan {
    random: Random,
    shape: Shape,
    left: u32,
    channel: u32,
    channel_hours: u64,
    hours_left: u64,
    busy: bool,
    hour: Hour,
}

impl Plan {
    fn next_channel(&mut self) {
        self.channel += 1;
        // The first channel is a busy one, so that small runs have one too.
        self.busy = u64::from(self.channel) % CHANNELS_TO_A_BUSY_ONE == 1;
        let days = match self.shape {
            Shape::Realistic => {
                self.hours_left = self.channel_hours / 2 + self.random.below(self.channel_hours);
                self.random.below(60)
            }
            Shape::Even { .. } | Shape::OneSlice => {
                self.hours_left = self.channel_hours;
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
