//! The real client of AWS against answers that a small server plays to it, and
//! against the local key ring over HTTP.

mod canned;
mod codes;
mod identity;
mod served;

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;

use super::*;
use crate::clock::{FakeClock, WallTime};
use crate::ids::{ChannelId, WorkspaceId};
use crate::kms::caller::{NoRoles, Roles};
use crate::kms::{Kms, ReasonCode, Use};

fn why() -> Use {
    Use::new(ReasonCode::Verify, "test")
}

fn org(name: &str) -> OrgId {
    OrgId::new(name).unwrap()
}

fn scope_of(name: &str) -> Scope {
    Scope::Message {
        org: org(name),
        workspace: WorkspaceId::new("w1").unwrap(),
        channel: ChannelId::new("c1").unwrap(),
        hour: "2019-02-13T17".parse().unwrap(),
    }
}

fn scope() -> Scope {
    scope_of("acme")
}

fn arn(n: u32) -> CmkArn {
    CmkArn::new(format!("arn:aws:kms:eu-west-1:111122223333:key/k{n}")).unwrap()
}

/// A clock that stands at the present: signatures carry the real time.
fn clock() -> Arc<FakeClock> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    FakeClock::at(WallTime(now.unwrap().as_micros() as i64))
}

const OWN_KEY: &str = "AKIAOURSELVES";

fn settings(endpoint: &str) -> AwsSettings {
    let own = Credentials::new(OWN_KEY, "own-secret", None, None, "test");
    AwsSettings {
        kms_endpoint: Some(endpoint.to_owned()),
        sts_endpoint: Some(endpoint.to_owned()),
        region: Some("us-east-1".to_owned()),
        credentials: Some(SharedCredentialsProvider::new(own)),
        limits: TimeLimits::PROMPT,
    }
}

async fn aws_with(settings: &AwsSettings, roles: Arc<dyn Roles>, clock: Arc<FakeClock>) -> AwsKms {
    let roles = RoleCache::new(roles, Duration::from_secs(60), clock.clone());
    AwsKms::new(settings, Arc::new(roles), None, clock)
        .await
        .unwrap()
}

async fn aws(endpoint: &str) -> AwsKms {
    aws_with(&settings(endpoint), Arc::new(NoRoles), clock()).await
}
