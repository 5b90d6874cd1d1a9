//! Where an export's files come from: a folder, or a ZIP file as Slack gives it.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::archive::ZipSource;
use crate::import::{ImportError, SkipReason};

/// What stands directly in one folder, names ascending by bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    /// Regular files.
    pub files: Vec<String>,
    /// Folders.
    pub folders: Vec<String>,
    /// What is there and will not be read, and why.
    pub refused: Vec<(String, SkipReason)>,
}

impl Listing {
    pub(super) fn sort(&mut self) {
        self.files.sort_unstable();
        self.folders.sort_unstable();
        self.refused.sort_unstable();
    }
}

/// The files of an export.
///
/// # Contract
///
/// A path is relative to the export, its parts joined by `/`; the empty path is
/// the top. Both calls only take paths made of names that [`list`] gave. A
/// listing is always in the same order, for an import resumes by it, and leaves
/// out what the operating system puts beside people's files: `__MACOSX` and
/// names that start with a dot. Nothing outside the export is ever opened.
///
/// [`list`]: ExportSource::list
pub trait ExportSource {
    /// What stands in a folder. An error means that the folder cannot be listed.
    fn list(&mut self, folder: &str) -> io::Result<Listing>;

    /// Opens a file for one pass from its start. The caller buffers.
    fn open(&mut self, path: &str) -> io::Result<Box<dyn Read + '_>>;
}

/// Opens an export: a folder, or else a ZIP file.
pub fn open(path: &Path) -> Result<Box<dyn ExportSource + Send>, ImportError> {
    let meta = fs::metadata(path).map_err(|source| ImportError::Io {
        path: path.display().to_string(),
        source,
    })?;
    if meta.is_dir() {
        Ok(Box::new(DirSource::new(path)))
    } else {
        Ok(Box::new(ZipSource::open(path)?))
    }
}

/// The path of a name in a folder.
pub(super) fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}/{name}")
    }
}

/// Names that no export has and every desktop adds.
pub(super) fn is_noise(name: &str) -> bool {
    name == "__MACOSX" || name.starts_with('.')
}

/// An export that lies unpacked in a folder.
#[derive(Debug)]
pub struct DirSource {
    top: PathBuf,
}

impl DirSource {
    /// The export in this folder.
    pub fn new(top: impl Into<PathBuf>) -> Self {
        Self { top: top.into() }
    }

    fn path(&self, relative: &str) -> PathBuf {
        let mut path = self.top.clone();
        path.extend(relative.split('/').filter(|part| !part.is_empty()));
        path
    }
}

impl ExportSource for DirSource {
    fn list(&mut self, folder: &str) -> io::Result<Listing> {
        let mut listing = Listing::default();
        for entry in fs::read_dir(self.path(folder))? {
            let entry = entry?;
            let name = match entry.file_name().into_string() {
                Ok(name) => name,
                Err(name) => {
                    let name = name.to_string_lossy().into_owned();
                    listing.refused.push((name, SkipReason::RefusedName));
                    continue;
                }
            };
            if is_noise(&name) {
                continue;
            }
            // The type of the entry itself: a link could lead out of the
            // export, and opening a pipe would wait for a writer for ever.
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => listing.folders.push(name),
                Ok(kind) if kind.is_file() => listing.files.push(name),
                Ok(_) => listing.refused.push((name, SkipReason::RefusedName)),
                Err(_) => listing.refused.push((name, SkipReason::Unreadable)),
            }
        }
        listing.sort();
        Ok(listing)
    }

    fn open(&mut self, path: &str) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(fs::File::open(self.path(path))?))
    }
}
