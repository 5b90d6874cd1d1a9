//! An export as the ZIP file that Slack gives. It is read in place: nothing is
//! unpacked to disk, where message text would stay in clear.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

use zip::ZipArchive;
use zip::result::ZipError;

use super::source::{ExportSource, Listing, is_noise, join};
use crate::import::{ImportError, SkipReason};

/// An export in a ZIP file. Its directory is held in memory, about 300 bytes a
/// file; the files are streamed.
pub struct ZipSource<R> {
    archive: ZipArchive<R>,
    folders: BTreeMap<String, Listing>,
    /// Where each file stands in the archive.
    files: BTreeMap<String, usize>,
}

impl ZipSource<BufReader<File>> {
    /// Opens a ZIP file and reads its directory.
    pub fn open(path: &Path) -> Result<Self, ImportError> {
        let shown = || path.display().to_string();
        let file = File::open(path).map_err(|source| ImportError::Io {
            path: shown(),
            source,
        })?;
        Self::new(BufReader::new(file)).map_err(|source| match source {
            ZipError::Io(source) => ImportError::Io {
                path: shown(),
                source,
            },
            source => ImportError::Zip {
                path: shown(),
                source,
            },
        })
    }
}

impl<R: Read + Seek> ZipSource<R> {
    /// Reads the directory of a ZIP file.
    pub fn new(reader: R) -> Result<Self, ZipError> {
        let archive = ZipArchive::new(reader)?;
        let mut source = Self {
            archive,
            folders: BTreeMap::from([(String::new(), Listing::default())]),
            files: BTreeMap::new(),
        };
        for index in 0..source.archive.len() {
            source.add(index)?;
        }
        if source.archive.has_duplicate_names() {
            source.refuse("(ZIP directory)".to_owned(), SkipReason::DuplicateFile);
        }
        source.folders.values_mut().for_each(Listing::sort);
        Ok(source)
    }

    fn add(&mut self, index: usize) -> Result<(), ZipError> {
        let entry = self.archive.by_index_data(index)?;
        // Archivers write UTF-8 names and forget to flag them. The library takes
        // bytes that are valid UTF-8 as such whatever the flag says, else as
        // code page 437; a test holds it to that.
        let name = entry.name()?.into_owned();
        let (is_link, is_dir) = (entry.is_symlink(), name.ends_with('/'));
        let Some(parts) = safe_parts(&name) else {
            self.refuse(name, SkipReason::RefusedName);
            return Ok(());
        };
        if parts.iter().any(|part| is_noise(part)) {
            return Ok(());
        }
        if is_link {
            self.refuse(name, SkipReason::RefusedName);
            return Ok(());
        }
        let Some((last, parents)) = parts.split_last() else {
            return Ok(());
        };
        let mut folder = String::new();
        for part in parents {
            folder = self.add_folder(&folder, part);
        }
        if is_dir {
            self.add_folder(&folder, last);
        } else {
            let path = join(&folder, last);
            // The library keeps names apart by their bytes, so two of them are
            // equal only if they are one name in two encodings.
            if self.files.insert(path, index).is_some() {
                self.refuse(name, SkipReason::DuplicateFile);
            } else if let Some(listing) = self.folders.get_mut(&folder) {
                listing.files.push((*last).to_owned());
            }
        }
        Ok(())
    }

    /// Enters a folder where it is not yet known; answers its path.
    fn add_folder(&mut self, parent: &str, name: &str) -> String {
        let path = join(parent, name);
        if !self.folders.contains_key(&path) {
            self.folders.insert(path.clone(), Listing::default());
            if let Some(listing) = self.folders.get_mut(parent) {
                listing.folders.push(name.to_owned());
            }
        }
        path
    }

    /// Notes at the top what will not be read.
    fn refuse(&mut self, name: String, reason: SkipReason) {
        if let Some(top) = self.folders.get_mut("") {
            top.refused.push((name, reason));
        }
    }
}

impl<R: Read + Seek> ExportSource for ZipSource<R> {
    fn list(&mut self, folder: &str) -> io::Result<Listing> {
        self.folders
            .get(folder)
            .cloned()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn open(&mut self, path: &str) -> io::Result<Box<dyn Read + '_>> {
        let index = *self.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(self.archive.by_index(index)?))
    }
}

/// The parts of a ZIP entry's name, or `None` for a name that could mean a file
/// outside of the export. Nothing is written to disk, so this guards against
/// whoever unpacks the same file next, and against two names for one file.
fn safe_parts(name: &str) -> Option<Vec<&str>> {
    if name.contains(['\0', '\\']) || name.as_bytes().get(1) == Some(&b':') {
        return None;
    }
    let parts: Vec<&str> = name.strip_suffix('/').unwrap_or(name).split('/').collect();
    let unsafe_part = |part: &&str| part.is_empty() || *part == "." || *part == "..";
    (!parts.iter().any(unsafe_part)).then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for good in [
            "channels.json",
            "general/2019-02-13.json",
            "größe/",
            "a/b/c",
            "...",
        ] {
            assert!(safe_parts(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a/..",
            ".",
            "./a",
            "a//b",
            "a\\b",
            "..\\x",
            "C:/x",
            "C:x",
            "a\0b",
        ] {
            assert!(safe_parts(bad).is_none(), "{bad:?}");
        }
    }
}
