//! How far a scan has come, in a file of the operator's. Nothing is kept in the
//! store: a scan reads only.
//!
//! Two scans that are given the same file do no harm: what each writes is whole by
//! itself, and the last one stays.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Found, Reached};
use crate::epoch::Epoch;
use crate::ids::{ChannelId, JobId, OrgId};
use crate::job::SliceId;

const VERSION: u32 = 1;

/// What a scan was asked for. A scan goes on only from one that was asked the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// The organization.
    pub org: OrgId,
    /// When it was entered in the registry, Unix milliseconds: another store may
    /// have one of the same name.
    pub org_created_ms: u64,
    /// The channel, if one.
    pub channel: Option<ChannelId>,
    /// The job, if it is about one.
    pub job: Option<JobId>,
    /// Whether cells are opened.
    pub opened: bool,
    /// Whether every replica is asked.
    pub all_replicas: bool,
}

/// One process's share of a scan, Unix milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// When it began.
    pub from_ms: u64,
    /// When it was last known to have read something.
    pub to_ms: u64,
}

/// A scan that is not at its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    v: u32,
    /// What it was asked for.
    pub asked: Asked,
    /// The organization's newest epoch when it began.
    pub last_epoch: Epoch,
    /// Its parts, in the order of time.
    pub parts: Vec<Part>,
    last: Option<SliceId>,
    found: Found,
}

/// Why a scan cannot go on from a file.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// Of the file system.
    #[error("the file {} cannot be used to go on: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not a scan's.
    #[error("the file {} is not of a scan that can be gone on with: {why}", path.display())]
    NotAScan {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// It is of another scan.
    #[error("the file {} is of another scan: {what} is not the same", path.display())]
    Another {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: &'static str,
    },
    /// The registry has changed since.
    #[error(
        "the scan in {} began at epoch {kept} of the organization, which is at epoch {now} now: \
         what was read before says nothing of what is asked for since", path.display()
    )]
    OlderEpoch {
        /// The file.
        path: PathBuf,
        /// The newest epoch then.
        kept: Epoch,
        /// The newest epoch now.
        now: Epoch,
    },
}

impl Kept {
    /// A scan that begins.
    pub fn begin(asked: Asked, last_epoch: Epoch) -> Self {
        Self {
            v: VERSION,
            asked,
            last_epoch,
            parts: Vec::new(),
            last: None,
            found: Found::default(),
        }
    }

    /// From where it goes on.
    pub fn reached(&self) -> Reached {
        Reached {
            last: self.last.clone(),
            found: self.found.clone(),
        }
    }

    /// Begins a part.
    pub fn begin_part(&mut self, now_ms: u64) {
        self.parts.push(Part {
            from_ms: now_ms,
            to_ms: now_ms,
        });
    }

    /// It came so far.
    pub fn note(&mut self, reached: &Reached, now_ms: u64) {
        self.last.clone_from(&reached.last);
        self.found.clone_from(&reached.found);
        if let Some(part) = self.parts.last_mut() {
            part.to_ms = part.to_ms.max(now_ms);
        }
    }

    fn differs(&self, asked: &Asked) -> Option<&'static str> {
        let own = &self.asked;
        [
            (own.org != asked.org, "the organization"),
            (
                own.org_created_ms != asked.org_created_ms,
                "the organization's entry in the registry",
            ),
            (own.channel != asked.channel, "the channel"),
            (own.job != asked.job, "the job"),
            (own.opened != asked.opened, "--no-open"),
            (own.all_replicas != asked.all_replicas, "--all-replicas"),
        ]
        .into_iter()
        .find_map(|(is, what)| is.then_some(what))
    }
}

/// The file.
#[derive(Debug, Clone)]
pub struct ResumeFile(PathBuf);

impl ResumeFile {
    /// The file at a path; it need not be there.
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The scan in it, or one that begins if there is no file.
    ///
    /// # Errors
    /// If the file cannot be read, is no scan's, or is of a scan that was asked
    /// something else or began under another newest epoch.
    pub fn load(&self, asked: Asked, last_epoch: Epoch) -> Result<Kept, ResumeError> {
        let path = || self.0.clone();
        let text = match fs::read(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Kept::begin(asked, last_epoch));
            }
            Err(source) => return Err(self.io(source)),
        };
        let kept: Kept = serde_json::from_slice(&text).map_err(|e| ResumeError::NotAScan {
            path: path(),
            why: e.to_string(),
        })?;
        if kept.v != VERSION {
            return Err(ResumeError::NotAScan {
                path: path(),
                why: format!("version {} is not known", kept.v),
            });
        }
        if let Some(what) = kept.differs(&asked) {
            return Err(ResumeError::Another { path: path(), what });
        }
        if kept.last_epoch != last_epoch {
            return Err(ResumeError::OlderEpoch {
                path: path(),
                kept: kept.last_epoch,
                now: last_epoch,
            });
        }
        Ok(kept)
    }

    /// Writes it: whole or not at all, whatever dies when.
    ///
    /// # Errors
    /// Of the file system.
    pub fn save(&self, kept: &Kept) -> Result<(), ResumeError> {
        self.write(kept).map_err(|e| self.io(e))
    }

    fn write(&self, kept: &Kept) -> io::Result<()> {
        let mut next = self.0.clone().into_os_string();
        next.push(format!(".{}.new", std::process::id()));
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&next)?;
        file.write_all(&serde_json::to_vec(kept)?)?;
        file.sync_all()?;
        fs::rename(&next, &self.0)?;
        let dir = self.0.parent().filter(|dir| !dir.as_os_str().is_empty());
        File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
    }

    /// Removes it: the scan is at its end, and whoever asks again wants another.
    ///
    /// # Errors
    /// Of the file system; a file that is not there is none.
    pub fn remove(&self) -> Result<(), ResumeError> {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.io(error)),
            _ => Ok(()),
        }
    }

    fn io(&self, source: io::Error) -> ResumeError {
        ResumeError::Io {
            path: self.0.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{CmkArn, Hour, RecordId};
    use crate::verify::{Place, Wrong};

    fn asked() -> Asked {
        Asked {
            org: OrgId::new("acme").unwrap(),
            org_created_ms: 5,
            channel: None,
            job: None,
            opened: true,
            all_replicas: false,
        }
    }

    fn reached() -> Reached {
        let channel = ChannelId::new("c1").unwrap();
        let hour: Hour = "2019-02-13T17".parse().unwrap();
        let mut found = Found {
            slices: 3,
            cells: 7,
            opened: 6,
            ..Found::default()
        };
        let cmk = CmkArn::new("arn:aws:kms:local:000000000000:key/k1").unwrap();
        found.by_cmk.entry(cmk).or_default().cells = 7;
        found.by_epoch.insert(2, 7);
        let place = Place {
            channel: channel.clone(),
            hour,
            record: RecordId::new(*b"r").unwrap(),
        };
        let wrong = Wrong {
            cells: 1,
            examples: vec![place],
        };
        found.quarantined.insert("does_not_open".to_owned(), wrong);
        Reached {
            last: Some(SliceId { channel, hour }),
            found,
        }
    }

    #[test]
    fn a_scan_goes_on_where_it_was_with_what_was_found() {
        let dir = tempfile::tempdir().unwrap();
        let file = ResumeFile::at(&dir.path().join("scan.json"));
        let epoch = Epoch::new(3).unwrap();
        let mut kept = file.load(asked(), epoch).unwrap();
        assert_eq!(kept.reached(), Reached::default());
        kept.begin_part(10);
        kept.note(&reached(), 20);
        file.save(&kept).unwrap();
        let again = file.load(asked(), epoch).unwrap();
        assert_eq!(again.reached(), reached());
        let part = Part {
            from_ms: 10,
            to_ms: 20,
        };
        assert_eq!(again.parts, [part]);
        // Nothing else is left behind, and it is its owner's alone.
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&file.0).unwrap());
        assert_eq!(mode & 0o777, 0o600);
        file.remove().unwrap();
        file.remove().unwrap();
    }

    #[test]
    fn a_file_of_another_scan_is_refused_by_what_differs() {
        let dir = tempfile::tempdir().unwrap();
        let file = ResumeFile::at(&dir.path().join("scan.json"));
        let epoch = Epoch::new(3).unwrap();
        file.save(&Kept::begin(asked(), epoch)).unwrap();
        let with = |change: fn(&mut Asked)| {
            let mut other = asked();
            change(&mut other);
            file.load(other, epoch).unwrap_err().to_string()
        };
        for (error, says) in [
            (
                with(|a| a.org = OrgId::new("other").unwrap()),
                "the organization is not",
            ),
            (with(|a| a.org_created_ms = 6), "entry in the registry"),
            (
                with(|a| a.channel = ChannelId::new("c1").ok()),
                "the channel",
            ),
            (with(|a| a.job = Some(JobId::random())), "the job"),
            (with(|a| a.opened = false), "--no-open"),
            (with(|a| a.all_replicas = true), "--all-replicas"),
        ] {
            assert!(error.contains(says), "{error}");
        }
        let older = file.load(asked(), Epoch::new(4).unwrap()).unwrap_err();
        assert!(older.to_string().contains("began at epoch 3"), "{older}");
        fs::write(&file.0, "{\"v\":1}").unwrap();
        let damaged = file.load(asked(), epoch).unwrap_err();
        assert!(
            damaged.to_string().contains("is not of a scan"),
            "{damaged}"
        );
        let text = serde_json::to_string(&Kept::begin(asked(), epoch)).unwrap();
        fs::write(&file.0, text.replace("\"v\":1", "\"v\":2")).unwrap();
        let newer = file.load(asked(), epoch).unwrap_err();
        assert!(newer.to_string().contains("version 2"), "{newer}");
    }
}
