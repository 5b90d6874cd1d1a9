//! The calls of STS: a form in, XML out. Any role may be assumed by anyone; a
//! fault on `AssumeRole` refuses it. External ids are not looked at.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use axum::http::Response;

use super::{reply, status_of};
use crate::ids::RoleArn;
use crate::kms::codes::ASSUME_ROLE;
use crate::kms::local::LocalKeyRing;
use crate::kms::local::ring::Refusal;

const XML: &str = "text/xml";
/// Sessions last this long if nothing is asked for.
const SESSION_S: u64 = 3600;

/// Answers one call.
pub(super) async fn answer(
    ring: &LocalKeyRing,
    caller: Option<&str>,
    body: &[u8],
) -> Response<Body> {
    let request_id = uuid::Uuid::new_v4().to_string();
    match call(ring, caller, body).await {
        Ok((action, result)) => {
            let body = format!(
                "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
                 <{action}Result>{result}</{action}Result>\
                 <ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata>\
                 </{action}Response>"
            );
            reply(200, XML, &request_id, body)
        }
        Err(Refusal { code, message, .. }) => {
            let (code_xml, message) = (escaped(&code), escaped(&message));
            let body = format!(
                "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
                 <Error><Type>Sender</Type><Code>{code_xml}</Code><Message>{message}</Message></Error>\
                 <RequestId>{request_id}</RequestId></ErrorResponse>"
            );
            reply(status_of(&code), XML, &request_id, body)
        }
    }
}

async fn call(
    ring: &LocalKeyRing,
    caller: Option<&str>,
    body: &[u8],
) -> Result<(&'static str, String), Refusal> {
    let caller = caller.ok_or_else(|| {
        let message = "The request has no Authorization header that names an access key id";
        Refusal::new("MissingAuthenticationToken", message)
    })?;
    let fields = form(body);
    let field = |name: &str| fields.get(name).map(String::as_str);
    match field("Action") {
        Some("AssumeRole") => {
            let result = assume_role(&ring.called_by(caller), field).await?;
            Ok(("AssumeRole", result))
        }
        Some("GetCallerIdentity") => {
            let caller = escaped(caller);
            let result = format!(
                "<Arn>arn:aws:iam::000000000000:user/{caller}</Arn>\
                 <UserId>{caller}</UserId><Account>000000000000</Account>"
            );
            Ok(("GetCallerIdentity", result))
        }
        _ => Err(Refusal::new(
            "InvalidAction",
            "The local key ring answers AssumeRole and GetCallerIdentity",
        )),
    }
}

/// The session's access key id is the role's name, so that deny rules and the
/// call log see the role.
async fn assume_role<'a>(
    ring: &LocalKeyRing,
    field: impl Fn(&str) -> Option<&'a str>,
) -> Result<String, Refusal> {
    let (_, latency) = ring.admit(ASSUME_ROLE)?;
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    ring.faulty(&*ring.ring()?, ASSUME_ROLE)?;
    let invalid = |message: &str| Refusal::new("ValidationError", message);
    let role = field("RoleArn")
        .and_then(|arn| RoleArn::new(arn).ok())
        .ok_or_else(|| invalid("RoleArn is not the ARN of a role"))?;
    let session = field("RoleSessionName")
        .filter(|name| {
            let fits = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b);
            (2..=64).contains(&name.len()) && name.bytes().all(fits)
        })
        .ok_or_else(|| invalid("RoleSessionName has 2 to 64 letters, digits and _+=,.@-"))?;
    let seconds = match field("DurationSeconds") {
        None => SESSION_S,
        Some(text) => text
            .parse()
            .ok()
            .filter(|seconds| (900..=43_200).contains(seconds))
            .ok_or_else(|| invalid("DurationSeconds is from 900 to 43200"))?,
    };
    let expires = ring.ring.clock.wall().plus(Duration::from_secs(seconds));
    let (secret, token) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
    Ok(format!(
        "<Credentials><AccessKeyId>{name}</AccessKeyId>\
         <SecretAccessKey>{secret}</SecretAccessKey><SessionToken>{token}</SessionToken>\
         <Expiration>{expires}</Expiration></Credentials>\
         <AssumedRoleUser><AssumedRoleId>{name}:{session}</AssumedRoleId>\
         <Arn>{arn}</Arn></AssumedRoleUser>",
        name = role.name(),
        arn = role.session_arn(session),
    ))
}

/// The pairs of an `application/x-www-form-urlencoded` body.
fn form(body: &[u8]) -> BTreeMap<String, String> {
    body.split(|b| *b == b'&')
        .filter_map(|pair| {
            let mut halves = pair.splitn(2, |b| *b == b'=');
            Some((decoded(halves.next()?), decoded(halves.next()?)))
        })
        .collect()
}

fn decoded(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let mut byte = [0];
        rest = match tail.get(..2) {
            Some(digits) if first == b'%' && hex::decode_to_slice(digits, &mut byte).is_ok() => {
                out.push(byte[0]);
                &tail[2..]
            }
            _ => {
                out.push(if first == b'+' { b' ' } else { first });
                tail
            }
        };
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_decoded() {
        let fields = form(b"Action=AssumeRole&RoleArn=arn%3Aaws%2Bx&Empty=&A=b+c&Cut=%4&none");
        let pairs: Vec<_> = fields
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(
            pairs,
            [
                ("A", "b c"),
                ("Action", "AssumeRole"),
                ("Cut", "%4"),
                ("Empty", ""),
                ("RoleArn", "arn:aws+x"),
            ]
        );
    }
}
