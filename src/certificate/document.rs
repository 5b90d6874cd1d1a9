//! The signed document, as JSON and as a page, and how one is checked.

use serde_json::{Value, json};

use super::content::Certificate;
use super::keys::{PublicKey, SigningKey};
use super::page;

/// What is signed begins with this, so that a signature on something else can
/// never pass for one on a certificate.
const DOMAIN: &[u8] = b"rekeyd certificate v1\n";

/// The word for the signature's algorithm in a document.
const ALGORITHM: &str = "Ed25519";

/// A certificate with its signature.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    certificate: Value,
    signature: Option<Signature>,
}

#[derive(Debug, Clone, PartialEq)]
struct Signature {
    public_key: PublicKey,
    value: Vec<u8>,
}

/// In which form a document was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// JSON.
    Json,
    /// A page that shows just what is signed.
    Page,
    /// A page of another version of rekeyd: the signed document in it was
    /// checked, and not whether the page shows it rightly.
    PageOfAnotherVersion,
}

/// A document that was found good.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// In which form it was.
    pub form: Form,
    /// What stands in it.
    pub certificate: Certificate,
}

/// Why a document is not good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadDocument {
    /// It is something else.
    #[error("it is no certificate: {0}")]
    NotOne(String),
    /// Nobody signed it.
    #[error("it is not signed")]
    NotSigned,
    /// Somebody else did.
    #[error("it is signed by another key: {}", .0.to_hex())]
    OtherKey(PublicKey),
    /// It is not what was signed.
    #[error("it was changed after it was signed")]
    Changed,
    /// The page shows something else than the signed document in it.
    #[error("the page shows something else than what was signed")]
    PageChanged,
}

impl Document {
    /// Signs a certificate, or leaves it without a signature if there is no key.
    pub fn new(certificate: &Certificate, key: Option<&SigningKey>) -> Self {
        // Plain data with string keys, which serde_json cannot fail to write.
        let certificate =
            serde_json::to_value(certificate).expect("a certificate is plain data and serializes");
        let signature = key.map(|key| Signature {
            public_key: key.public(),
            value: key.sign(&signed_bytes(&certificate)),
        });
        Self {
            certificate,
            signature,
        }
    }

    /// The document as JSON.
    pub fn to_json(&self) -> Value {
        let signature = self.signature.as_ref().map(|signature| {
            json!({
                "algorithm": ALGORITHM,
                "public_key": signature.public_key.to_hex(),
                "value": hex::encode(&signature.value),
            })
        });
        json!({ "certificate": self.certificate, "signature": signature })
    }

    /// The document as a page that needs nothing from elsewhere.
    ///
    /// # Errors
    /// `NotOne` if the certificate is of a form that this version cannot show.
    pub fn to_page(&self) -> Result<String, BadDocument> {
        let signer = self.signature.as_ref().map(|s| s.public_key);
        Ok(page::of(&self.certificate()?, signer, &self.to_json()))
    }

    /// What stands in it.
    ///
    /// # Errors
    /// `NotOne` if it is of a form that this version does not know.
    pub fn certificate(&self) -> Result<Certificate, BadDocument> {
        serde_json::from_value(self.certificate.clone())
            .map_err(|error| BadDocument::NotOne(error.to_string()))
    }

    /// Checks a document in either form against a key that the reader trusts.
    ///
    /// # Errors
    /// Why it is not good.
    pub fn check(text: &str, trusted: PublicKey) -> Result<Checked, BadDocument> {
        let embedded = page::embedded(text);
        let document = Self::parse(embedded.as_deref().unwrap_or(text))?;
        let Some(signature) = &document.signature else {
            return Err(BadDocument::NotSigned);
        };
        if signature.public_key != trusted {
            return Err(BadDocument::OtherKey(signature.public_key));
        }
        if !trusted.has_signed(&signed_bytes(&document.certificate), &signature.value) {
            return Err(BadDocument::Changed);
        }
        let certificate = document.certificate()?;
        let form = match embedded {
            None => Form::Json,
            Some(_) if certificate.rekeyd != env!("CARGO_PKG_VERSION") => {
                Form::PageOfAnotherVersion
            }
            Some(_) if document.to_page()? != text => return Err(BadDocument::PageChanged),
            Some(_) => Form::Page,
        };
        Ok(Checked { form, certificate })
    }

    fn parse(text: &str) -> Result<Self, BadDocument> {
        let not_one = |why: &str| BadDocument::NotOne(why.to_owned());
        let mut whole: Value =
            serde_json::from_str(text).map_err(|e| BadDocument::NotOne(e.to_string()))?;
        let certificate = match whole.get_mut("certificate") {
            Some(certificate @ Value::Object(_)) => certificate.take(),
            _ => return Err(not_one("it has no object `certificate`")),
        };
        let signature = match whole.get("signature") {
            None | Some(Value::Null) => None,
            Some(signature) => Some(
                Signature::parse(signature)
                    .ok_or_else(|| not_one("its signature is of no known form"))?,
            ),
        };
        Ok(Self {
            certificate,
            signature,
        })
    }
}

impl Signature {
    fn parse(value: &Value) -> Option<Self> {
        let text = |name: &str| value.get(name)?.as_str();
        if text("algorithm")? != ALGORITHM {
            return None;
        }
        Some(Self {
            public_key: PublicKey::from_hex(text("public_key")?)?,
            value: hex::decode(text("value")?).ok()?,
        })
    }
}

/// What is signed: the certificate as JSON with its keys sorted and no space, so
/// that laying it out anew changes nothing.
fn signed_bytes(certificate: &Value) -> Vec<u8> {
    // serde_json's map is a BTreeMap: keys come out sorted.
    [DOMAIN, certificate.to_string().as_bytes()].concat()
}
