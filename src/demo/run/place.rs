//! The demo's directory: made new, and removed at the end unless somebody wants
//! to look into it.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::DemoError;

/// A directory that is removed when dropped, unless it is to be kept.
pub struct Place {
    path: PathBuf,
    keep: bool,
}

impl Place {
    /// Makes the directory `wanted`, or one of a new name among the temporary
    /// files.
    ///
    /// # Errors
    /// If it cannot be made, or `wanted` has something in it: the demo removes
    /// its directory, and would remove that too.
    pub fn make(owner: &str, wanted: Option<&Path>, keep: bool) -> Result<Self, DemoError> {
        let path = match wanted {
            Some(path) => std::path::absolute(path).map_err(|e| DemoError::io("find", path, e))?,
            None => {
                std::env::temp_dir().join(format!("rekeyd-{owner}-{:08x}", rand::random::<u32>()))
            }
        };
        let made = fs::DirBuilder::new()
            .recursive(wanted.is_some())
            .mode(0o700)
            .create(&path);
        made.map_err(|e| DemoError::io("make", &path, e))?;
        let mut inside = fs::read_dir(&path).map_err(|e| DemoError::io("list", &path, e))?;
        if inside.next().is_some() {
            return Err(DemoError::NotEmpty(path));
        }
        Ok(Self { path, keep })
    }

    /// The directory, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the directory as it is.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Whether it will be there afterwards.
    pub fn is_kept(&self) -> bool {
        self.keep
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        // A file that a dying process made meanwhile makes the first try fail.
        for _ in 0..3 {
            match fs::remove_dir_all(&self.path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {}
                _ => return,
            }
        }
        eprintln!("could not remove {}", self.path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_is_never_removed() {
        let dir = tempfile::tempdir().unwrap();
        let theirs = dir.path().join("theirs");
        fs::create_dir(&theirs).unwrap();
        fs::write(theirs.join("file"), "x").unwrap();
        assert!(matches!(
            Place::make("demo", Some(&theirs), false),
            Err(DemoError::NotEmpty(_))
        ));
        assert!(theirs.join("file").exists());

        let new = dir.path().join("a/new");
        let place = Place::make("demo", Some(&new), false).unwrap();
        fs::write(place.path().join("file"), "x").unwrap();
        drop(place);
        assert!(!new.exists());

        let mut place = Place::make("demo", Some(&new), false).unwrap();
        place.keep();
        drop(place);
        assert!(new.exists());
    }
}
