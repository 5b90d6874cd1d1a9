//! AWS KMS's client on moto: what a stand-in can do, which is the wire. States,
//! policies and codes are tested on the local key ring over HTTP.

use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_kms::types::KeyUsageType;
use rekeyd::clock::SystemClock;
use rekeyd::ids::CmkArn;
use rekeyd::kms::SharedKms;
use rekeyd::kms::aws::{AwsKms, AwsSettings};
use rekeyd::kms::caller::{NoRoles, RoleCache};
use rekeyd::kms::conformance::{self, Harness};

use crate::aws::kms_client;
use crate::backend::UNHURRIED;
use crate::services::moto;

struct Moto {
    kms: Arc<AwsKms>,
    owner: aws_sdk_kms::Client,
}

impl Moto {
    async fn new() -> Self {
        let endpoint = tokio::task::spawn_blocking(|| moto().endpoint())
            .await
            .unwrap();
        let credentials = Credentials::new("AKIATEST", "test", None, None, "test");
        let settings = AwsSettings {
            kms_endpoint: Some(endpoint.clone()),
            sts_endpoint: Some(endpoint.clone()),
            region: Some("eu-central-1".to_owned()),
            credentials: Some(SharedCredentialsProvider::new(credentials)),
            limits: UNHURRIED,
        };
        let clock = SystemClock::shared();
        let roles = RoleCache::new(Arc::new(NoRoles), Duration::from_secs(60), clock.clone());
        let kms = AwsKms::new(&settings, Arc::new(roles), None, clock)
            .await
            .unwrap();
        Self {
            kms: Arc::new(kms),
            owner: kms_client(&endpoint),
        }
    }
}

#[async_trait::async_trait]
impl Harness for Moto {
    fn kms(&self) -> SharedKms {
        self.kms.clone()
    }

    async fn create_cmk(&self) -> CmkArn {
        // AWS's default, which moto does not fill in.
        let usage = KeyUsageType::EncryptDecrypt;
        let made = self.owner.create_key().key_usage(usage).send();
        let made = made.await.unwrap();
        let arn = made.key_metadata().and_then(|about| about.arn());
        CmkArn::new(arn.unwrap()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kms_on_moto_conforms_wire() {
    conformance::wire(&Moto::new().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sts_on_moto_says_who_we_are() {
    let caller = Moto::new().await.kms.whoami().await.unwrap();
    assert_eq!(caller.account, "123456789012");
    assert!(caller.principal.unwrap().contains("123456789012"));
}
