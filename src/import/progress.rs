//! How far an import has come, in a small file of its own for each export,
//! organization and workspace. Losing it costs time and nothing else: loading a
//! message twice writes the same thing twice.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::{OrgId, WorkspaceId};
use crate::import::ImportProgress;

/// The file of one import.
pub struct ProgressFile {
    path: PathBuf,
    stamp: Stamp,
}

/// What tells one export from another at the same path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    bytes: u64,
    modified_ns: i64,
    inode: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    v: u32,
    export: Stamp,
    done: ImportProgress,
}

impl ProgressFile {
    /// The file for an import of `export`, below `data_dir`. Nothing is made yet.
    ///
    /// # Errors
    /// If the export cannot be looked at.
    pub fn of(
        data_dir: &Path,
        export: &Path,
        org: &OrgId,
        workspace: &WorkspaceId,
    ) -> io::Result<Self> {
        let export = fs::canonicalize(export)?;
        let meta = fs::metadata(&export)?;
        let mut hash = Sha256::new();
        for part in [
            export.as_os_str().as_encoded_bytes(),
            org.as_str().as_bytes(),
            workspace.as_str().as_bytes(),
        ] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let name = format!("{}.json", hex::encode(&hash.finalize()[..16]));
        Ok(Self {
            path: data_dir.join("imports").join(name),
            stamp: Stamp {
                bytes: meta.len(),
                modified_ns: meta.mtime() * 1_000_000_000 + meta.mtime_nsec(),
                inode: meta.ino(),
            },
        })
    }

    /// How far an earlier run came. `None` if there was none, if the export is
    /// another by now, or if the file cannot be read: then all is read again.
    pub fn load(&self) -> Option<ImportProgress> {
        let kept: Kept = serde_json::from_slice(&fs::read(&self.path).ok()?).ok()?;
        (kept.v == 1 && kept.export == self.stamp).then_some(kept.done)
    }

    /// Keeps how far it came: whole or not at all. Call it only once everything
    /// up to there is durable (I7).
    ///
    /// # Errors
    /// Of the file system.
    pub fn save(&self, done: &ImportProgress) -> io::Result<()> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(dir)?;
        let next = self.path.with_extension("new");
        let kept = Kept {
            v: 1,
            export: self.stamp.clone(),
            done: done.clone(),
        };
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&next)?;
        file.write_all(&serde_json::to_vec(&kept)?)?;
        file.sync_all()?;
        fs::rename(next, &self.path)
    }

    /// Removes it: the import is complete.
    ///
    /// # Errors
    /// Of the file system; a file that is not there is none.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_kept_for_one_export_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let export = dir.path().join("export.zip");
        fs::write(&export, "one").unwrap();
        let of = |org: &str| {
            let (org, workspace) = (org.parse().unwrap(), "w1".parse().unwrap());
            ProgressFile::of(dir.path(), &export, &org, &workspace).unwrap()
        };
        let done = ImportProgress {
            folder: "general".into(),
            day: "2019-02-13".into(),
        };
        assert_eq!(of("acme").load(), None);
        of("acme").save(&done).unwrap();
        assert_eq!(of("acme").load(), Some(done.clone()));
        assert_eq!(of("other").load(), None, "another organization");

        fs::write(&export, "another one").unwrap();
        assert_eq!(of("acme").load(), None, "another export at the same path");
        of("acme").save(&done).unwrap();
        of("acme").remove().unwrap();
        of("acme").remove().unwrap();
        assert_eq!(of("acme").load(), None);
    }
}
