//! The keys that sign certificates and check them: Ed25519 (RFC 8032), in the
//! files that `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout`
//! write too.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use zeroize::Zeroizing;

/// What precedes the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo
/// (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// Bytes of a line of base64 in a PEM file (RFC 7468).
const PEM_LINE: usize = 64;

/// A file that holds no key of ours, or cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// Others than its owner may read a private key.
    #[error("{0} may be read by others than its owner; make it private with `chmod 600 {0}`")]
    NotPrivate(PathBuf),
    /// No such key is in the file.
    #[error("{path} holds no Ed25519 {what}: {why}")]
    NotAKey {
        /// The file.
        path: PathBuf,
        /// Which half was looked for.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The system's random numbers failed.
    #[error("no key could be made: the system gives no random numbers")]
    NoRandom,
}

/// Signs certificates. Not printed, and wiped by its library when dropped.
pub struct SigningKey(Ed25519KeyPair);

/// Checks what its other half signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl SigningKey {
    /// Reads a private key in PKCS#8, as PEM. It must not be readable by others.
    ///
    /// # Errors
    /// `Io`, `NotPrivate`, `NotAKey`.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let io = |source| KeyFileError::Io {
            path: path.to_owned(),
            source,
        };
        if std::fs::metadata(path).map_err(io)?.mode() & 0o077 != 0 {
            return Err(KeyFileError::NotPrivate(path.to_owned()));
        }
        let text = Zeroizing::new(std::fs::read(path).map_err(io)?);
        let not_a_key = |why: String| KeyFileError::NotAKey {
            path: path.to_owned(),
            what: "private key (PKCS#8, PEM)",
            why,
        };
        let der =
            PrivatePkcs8KeyDer::from_pem_slice(&text).map_err(|e| not_a_key(e.to_string()))?;
        // Without its public half, as openssl writes it, it cannot be held
        // against it.
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der());
        Ok(Self(pair.map_err(|e| not_a_key(e.to_string()))?))
    }

    /// The half that checks.
    pub fn public(&self) -> PublicKey {
        let bytes = self.0.public_key().as_ref();
        PublicKey(bytes.try_into().expect("an Ed25519 key has 32 bytes"))
    }

    /// Signs.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).as_ref().to_vec()
    }
}

impl PublicKey {
    /// Reads a public key: a SubjectPublicKeyInfo as PEM, or 64 hexadecimal
    /// digits.
    ///
    /// # Errors
    /// `Io`, `NotAKey`.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let text = std::fs::read(path).map_err(|source| KeyFileError::Io {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text).map_err(|why| KeyFileError::NotAKey {
            path: path.to_owned(),
            what: "public key (PEM, or 64 hexadecimal digits)",
            why,
        })
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        if let Some(key) = std::str::from_utf8(text).ok().and_then(Self::from_hex) {
            return Ok(key);
        }
        let der = SubjectPublicKeyInfoDer::from_pem_slice(text).map_err(|e| e.to_string())?;
        let key = der.strip_prefix(&SPKI_PREFIX);
        let key = key.and_then(|key| key.try_into().ok());
        key.map(Self)
            .ok_or_else(|| "another kind of key".to_owned())
    }

    /// From 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut key = [0; 32];
        hex::decode_to_slice(text.trim(), &mut key).ok()?;
        Some(Self(key))
    }

    /// As 64 hexadecimal digits.
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }

    /// As PEM.
    pub fn to_pem(self) -> String {
        pem("PUBLIC KEY", &[&SPKI_PREFIX[..], &self.0].concat()).to_string()
    }

    /// Whether a signature is that of its other half on exactly these bytes.
    pub fn has_signed(self, message: &[u8], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, &self.0);
        key.verify(message, signature).is_ok()
    }
}

/// Makes a key in a new file that only its owner can read.
///
/// # Errors
/// `Io`, also if the file is there; `NoRandom`.
pub fn new_key_file(path: &Path) -> Result<PublicKey, KeyFileError> {
    let made = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new());
    let der = made.map_err(|_| KeyFileError::NoRandom)?;
    let text = pem("PRIVATE KEY", der.as_ref());
    let io = |source| KeyFileError::Io {
        path: path.to_owned(),
        source,
    };
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(path).map_err(io)?;
    file.write_all(text.as_bytes()).map_err(io)?;
    file.sync_all().map_err(io)?;
    Ok(SigningKey::read(path)?.public())
}

/// A PEM block (RFC 7468). It may hold a private key, so it is wiped.
fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(BASE64.encode(der));
    let mut text = Zeroizing::new(format!("-----BEGIN {label}-----\n"));
    for line in body.as_bytes().chunks(PEM_LINE) {
        // base64 is ASCII.
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}
