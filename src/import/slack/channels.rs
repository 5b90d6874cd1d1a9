//! Which channel a folder of the export belongs to.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::elements::{Buffers, Elements, Fault};
use super::message::Text;
use super::source::{ExportSource, join};
use crate::ids::ChannelId;
use crate::import::{ImportReport, SkipReason};

/// The files that list channels. In dms.json entries have no name.
pub(super) const LISTS: [&str; 4] = ["channels.json", "groups.json", "mpims.json", "dms.json"];

/// Largest entry of a list. An entry names every member of its channel, which
/// of a large organization is a megabyte or two.
const MAX_ENTRY_BYTES: usize = 32 << 20;

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    name: Option<Text<'a>>,
}

enum Claim {
    By(String),
    ByTwo,
}

/// The channels of an export, by the names their folders may have.
#[derive(Default)]
pub(super) struct Channels {
    claims: BTreeMap<String, Claim>,
}

/// The channel of a folder.
#[derive(Debug, PartialEq)]
pub(super) struct Resolved {
    pub channel: ChannelId,
    /// A list names it.
    pub listed: bool,
}

impl Channels {
    /// Reads the lists that are there, under `root`. A damaged list is read as
    /// far as it goes.
    pub(super) fn load(
        source: &mut dyn ExportSource,
        root: &str,
        present: &[String],
        report: &mut ImportReport,
    ) -> Self {
        let mut channels = Self::default();
        let mut buffers = Buffers::for_entries(MAX_ENTRY_BYTES);
        for list in LISTS {
            if present.iter().any(|name| name == list) {
                channels.load_list(source, &join(root, list), &mut buffers, report);
            }
        }
        channels
    }

    fn load_list(
        &mut self,
        source: &mut dyn ExportSource,
        path: &str,
        buffers: &mut Buffers,
        report: &mut ImportReport,
    ) {
        let Ok(read) = source.open(path) else {
            report.skip(SkipReason::Unreadable, path, None, Some(0));
            return;
        };
        let mut elements = Elements::new(read, buffers);
        loop {
            match elements.next() {
                Ok(None) => return,
                Ok(Some(element)) => {
                    if !element.body.is_some_and(|body| self.add(body)) {
                        let (index, start) = (element.index, element.start);
                        report.skip(SkipReason::BadEntry, path, Some(index), Some(start));
                    }
                }
                Err(Fault::Syntax { byte }) => {
                    report.skip(SkipReason::Broken, path, None, Some(byte));
                }
                Err(Fault::Io { byte }) => {
                    report.skip(SkipReason::Unreadable, path, None, Some(byte));
                }
            }
        }
    }

    fn add(&mut self, json: &[u8]) -> bool {
        let entry = match json.first() {
            Some(b'{') => serde_json::from_slice::<Entry<'_>>(json).ok(),
            _ => None,
        };
        let Some(entry) = entry else { return false };
        let Some(id) = entry.id.as_ref().and_then(Text::as_str) else {
            return false;
        };
        self.claim(id, id);
        if let Some(name) = entry.name.as_ref().and_then(Text::as_str) {
            self.claim(name, id);
        }
        true
    }

    /// Two channels may have one name (one of them archived, or private). Then
    /// nobody can say whose messages the folder holds, and to guess would put
    /// messages under another channel's keys.
    fn claim(&mut self, folder: &str, id: &str) {
        let claim = self
            .claims
            .entry(folder.to_owned())
            .or_insert_with(|| Claim::By(id.to_owned()));
        if matches!(claim, Claim::By(other) if other != id) {
            *claim = Claim::ByTwo;
        }
    }

    /// The channel of a folder, or why it has none.
    pub(super) fn resolve(&self, folder: &str) -> Result<Resolved, SkipReason> {
        match self.claims.get(folder) {
            Some(Claim::By(id)) => match ChannelId::new(id.as_str()) {
                Ok(channel) => Ok(Resolved {
                    channel,
                    listed: true,
                }),
                Err(_) => Err(SkipReason::BadChannelId),
            },
            Some(Claim::ByTwo) => Err(SkipReason::AmbiguousFolder),
            None if is_slack_id(folder) => match ChannelId::new(folder) {
                Ok(channel) => Ok(Resolved {
                    channel,
                    listed: false,
                }),
                Err(_) => Err(SkipReason::BadChannelId),
            },
            // `general` would be a valid id as well, but it is the channel's
            // name and not its id: nothing would ever look for it there.
            None => Err(SkipReason::NoEntry),
        }
    }
}

/// Whether a folder's name can only be the id of a Slack conversation.
fn is_slack_id(folder: &str) -> bool {
    let bytes = folder.as_bytes();
    (9..=32).contains(&bytes.len())
        && matches!(bytes[0], b'C' | b'D' | b'G')
        && bytes
            .iter()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_one_channel_or_none() {
        let mut channels = Channels::default();
        for (json, good) in [
            (
                r#"{"id":"C000000001","name":"general","members":["U1"]}"#,
                true,
            ),
            (r#"{"id":"C000000002","name":"größe"}"#, true),
            (r#"{"id":"C000000003","name":"twice"}"#, true),
            (r#"{"id":"G000000003","name":"twice"}"#, true),
            (r#"{"id":"C000000004","name":"same"}"#, true),
            (r#"{"id":"C000000004","name":"same"}"#, true),
            (r#"{"id":"D000000005","members":["U1","U2"]}"#, true),
            (r#"{"id":"C*","name":"star"}"#, true),
            (r#"{"name":"no id"}"#, false),
            (r#"{"id":7,"name":"number"}"#, false),
            (r#"["C000000001","general"]"#, false),
            ("null", false),
        ] {
            assert_eq!(channels.add(json.as_bytes()), good, "{json}");
        }
        let got = |folder: &str| {
            channels
                .resolve(folder)
                .map(|r| (r.channel.as_str().to_owned(), r.listed))
        };
        let listed = |id: &str| Ok((id.to_owned(), true));
        assert_eq!(got("general"), listed("C000000001"));
        assert_eq!(got("C000000001"), listed("C000000001"));
        assert_eq!(got("größe"), listed("C000000002"));
        assert_eq!(got("twice"), Err(SkipReason::AmbiguousFolder));
        assert_eq!(got("same"), listed("C000000004"));
        assert_eq!(got("D000000005"), listed("D000000005"));
        assert_eq!(got("star"), Err(SkipReason::BadChannelId));
        assert_eq!(got("D000000099"), Ok(("D000000099".to_owned(), false)));
        assert_eq!(got("number"), Err(SkipReason::NoEntry));
        assert_eq!(got("attachments"), Err(SkipReason::NoEntry));
    }
}
