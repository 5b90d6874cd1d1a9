//! The ring's file: what it holds, how it is changed, and how a process notices
//! that another one changed it.
//!
//! The file is never written in place: a change writes a new file and renames it
//! over the old one, under a lock. A reader keeps the file it has read open. As
//! long as it does, no other file can get the same inode number, so "the path
//! names another inode" means "the ring was changed", exactly. Times and sizes
//! could not tell two changes within one tick of the file system's clock.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::RingError;
use super::fault::Fault;
use super::policy::DenyRule;
use super::seal::Protection;
use crate::ids::CmkArn;
use crate::kms::CmkState;

/// The version of the ring's file that this program reads and writes.
const VERSION: u32 = 1;

/// All that a ring knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RingState {
    pub version: u32,
    /// Rises with each change; for people who look at the file.
    pub generation: u64,
    pub protection: Protection,
    /// A sealed constant: tells a wrong passphrase from a damaged ring.
    pub check: String,
    pub keys: BTreeMap<CmkArn, KeyEntry>,
    pub denies: Vec<DenyRule>,
    pub faults: Vec<Fault>,
}

/// One CMK.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyEntry {
    pub created_ms: u64,
    pub state: CmkState,
    pub deletion_ms: Option<u64>,
    /// The material, sealed under the ring's own key, in hexadecimal.
    pub sealed: String,
}

impl RingState {
    pub fn new(protection: Protection, check: String) -> Self {
        Self {
            version: VERSION,
            generation: 0,
            protection,
            check,
            keys: BTreeMap::new(),
            denies: Vec::new(),
            faults: Vec::new(),
        }
    }
}

/// Which file was read: good for as long as `_open` is.
pub(super) struct Identity {
    dev: u64,
    ino: u64,
    _open: File,
}

/// The places of a ring's files.
#[derive(Debug, Clone)]
pub(super) struct RingFiles {
    dir: PathBuf,
    state: PathBuf,
}

impl RingFiles {
    pub fn at(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            state: dir.join("ring.json"),
        }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn key_file(&self) -> PathBuf {
        self.dir.join("ring.key")
    }

    pub fn log(&self) -> PathBuf {
        self.dir.join("calls.jsonl")
    }

    /// Makes the folder, for its owner only.
    pub fn create_dir(&self) -> Result<(), RingError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(|e| RingError::io(&self.dir, e))
    }

    /// Reads the ring as it is now.
    pub fn read(&self) -> Result<(RingState, Identity), RingError> {
        let fail = |e| match e {
            e if io::Error::kind(&e) == io::ErrorKind::NotFound => RingError::NotARing {
                dir: self.dir.clone(),
            },
            e => RingError::io(&self.state, e),
        };
        let mut file = File::open(&self.state).map_err(fail)?;
        let about = file.metadata().map_err(fail)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(fail)?;
        let state: RingState =
            serde_json::from_slice(&text).map_err(|source| RingError::Unreadable {
                path: self.state.clone(),
                source,
            })?;
        if state.version != VERSION {
            return Err(RingError::Version {
                path: self.state.clone(),
                found: state.version,
            });
        }
        Ok((
            state,
            Identity {
                dev: about.dev(),
                ino: about.ino(),
                _open: file,
            },
        ))
    }

    /// The ring is still the one that was read.
    pub fn is_unchanged(&self, identity: &Identity) -> Result<bool, RingError> {
        let now =
            rustix::fs::stat(&self.state).map_err(|e| RingError::io(&self.state, e.into()))?;
        Ok((now.st_dev, now.st_ino) == (identity.dev, identity.ino))
    }

    /// Writes the first state; refuses to replace a ring.
    pub fn create(&self, state: &RingState) -> Result<(), RingError> {
        let _lock = self.lock()?;
        if self.state.exists() {
            return Err(RingError::Exists {
                dir: self.dir.clone(),
            });
        }
        self.replace(state)
    }

    /// Changes the ring under the lock. If `change` fails, nothing is written.
    pub fn update<T>(
        &self,
        change: impl FnOnce(&mut RingState) -> Result<T, RingError>,
    ) -> Result<T, RingError> {
        let _lock = self.lock()?;
        let (mut state, _) = self.read()?;
        let answer = change(&mut state)?;
        state.generation += 1;
        self.replace(&state)?;
        Ok(answer)
    }

    /// The lock is on a file of its own, because the ring's file is replaced by
    /// each change. It goes with the file handle, also when the process dies.
    fn lock(&self) -> Result<File, RingError> {
        let path = self.dir.join("ring.lock");
        let fail = |e| RingError::io(&path, e);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(fail)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(|e| fail(e.into()))?;
        Ok(file)
    }

    /// New file, synced, renamed over the old one, folder synced. Under the lock.
    fn replace(&self, state: &RingState) -> Result<(), RingError> {
        let next = self.dir.join("ring.json.new");
        let write = || -> io::Result<()> {
            let text = serde_json::to_vec_pretty(state).map_err(io::Error::other)?;
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&next)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&next, &self.state)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|e| RingError::io(&self.state, e))
    }
}
