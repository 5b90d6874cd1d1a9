//! The suite of every KMS, on the local key ring over HTTP, with the real client
//! of AWS between.

use std::collections::BTreeMap;

use tokio::net::TcpListener;

use super::*;
use crate::kms::SharedKms;
use crate::kms::conformance::{self, FaultHarness, Harness, OwnerHarness};
use crate::kms::local::{LocalKeyRing, Permission, serve, tests::Bench};

/// The ring's bench, called over HTTP.
struct Served {
    bench: Bench,
    endpoint: String,
    kms: SharedKms,
}

impl Served {
    async fn new() -> Self {
        let bench = Bench::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let ring: LocalKeyRing = bench.open_as("server");
        tokio::spawn(serve::serve(ring, listener, std::future::pending()));
        let kms = Arc::new(aws(&endpoint).await);
        Self {
            bench,
            endpoint,
            kms,
        }
    }
}

#[async_trait::async_trait]
impl Harness for Served {
    fn kms(&self) -> SharedKms {
        self.kms.clone()
    }
    async fn create_cmk(&self) -> CmkArn {
        self.bench.create_cmk().await
    }
}

#[async_trait::async_trait]
impl OwnerHarness for Served {
    fn missing_cmk(&self) -> CmkArn {
        self.bench.missing_cmk()
    }
    async fn disable(&self, cmk: &CmkArn) {
        self.bench.disable(cmk).await;
    }
    async fn enable(&self, cmk: &CmkArn) {
        self.bench.enable(cmk).await;
    }
    async fn schedule_deletion(&self, cmk: &CmkArn) {
        self.bench.schedule_deletion(cmk).await;
    }
    async fn cancel_deletion(&self, cmk: &CmkArn) {
        self.bench.cancel_deletion(cmk).await;
    }
    async fn deny(
        &self,
        cmk: &CmkArn,
        permissions: &[Permission],
        pairs: &BTreeMap<String, String>,
    ) {
        self.bench.deny(cmk, permissions, pairs).await;
    }
    async fn allow(&self, cmk: &CmkArn) {
        self.bench.allow(cmk).await;
    }
}

#[async_trait::async_trait]
impl FaultHarness for Served {
    async fn fail_with(&self, code: &str, message: &str) {
        self.bench.fail_with(code, message).await;
    }
    async fn work_again(&self) {
        self.bench.work_again().await;
    }
}

#[tokio::test]
async fn conforms_wire() {
    conformance::wire(&Served::new().await).await;
}

#[tokio::test]
async fn conforms_meaning() {
    conformance::meaning(&Served::new().await).await;
}

#[tokio::test]
async fn conforms_codes() {
    conformance::codes(&Served::new().await).await;
}

#[tokio::test]
async fn the_ring_knows_the_caller_by_the_access_key_id_and_the_role_by_its_name() {
    use crate::ids::RoleArn;
    use crate::kms::KmsClass;
    use crate::kms::caller::{Access, Grant};
    use crate::kms::local::DenyRule;

    struct Rekeyd;
    #[async_trait::async_trait]
    impl Roles for Rekeyd {
        async fn access(&self, _: &OrgId, _: &CmkArn) -> Result<Access, String> {
            let role = RoleArn::new("arn:aws:iam::111122223333:role/x/rekeyd+acme").unwrap();
            let external_id = Some("ext-1".parse().unwrap());
            Ok(Access::Role(Grant { role, external_id }))
        }
    }

    let served = Served::new().await;
    let cmk = served.create_cmk().await;
    let own = aws(&served.endpoint).await;
    let in_role = aws_with(&settings(&served.endpoint), Arc::new(Rekeyd), clock()).await;
    assert_eq!(own.whoami().await.unwrap().account, "000000000000");
    own.generate_data_key(&cmk, &scope(), &why()).await.unwrap();
    in_role
        .generate_data_key(&cmk, &scope(), &why())
        .await
        .unwrap();
    let callers: Vec<String> = served
        .bench
        .admin
        .log_tail(2)
        .unwrap()
        .into_iter()
        .map(|call| call.caller)
        .collect();
    assert_eq!(callers, [OWN_KEY, "rekeyd+acme"]);

    served
        .bench
        .admin
        .add_deny(DenyRule {
            callers: vec!["rekeyd*".to_owned()],
            ..crate::kms::local::tests::rule("role")
        })
        .unwrap();
    own.generate_data_key(&cmk, &scope(), &why()).await.unwrap();
    let error = in_role.generate_data_key(&cmk, &scope(), &why()).await;
    assert_eq!(error.err().unwrap().class, KmsClass::Denied);
}

#[tokio::test]
async fn the_server_refuses_what_it_does_not_know() {
    let served = Served::new().await;
    let cmk = served.create_cmk().await;
    let client = served.kms.clone();
    // The real client cannot say these; the SDK's own builder can.
    let raw = aws(&served.endpoint).await;
    let ready = raw.sessions.own("test").await.unwrap();
    let call = raw.client("eu-west-1");
    let unnamed = client
        .generate_data_key(&cmk, &scope(), &why())
        .await
        .unwrap();
    let opened = call
        .decrypt()
        .ciphertext_blob(Blob::new(unnamed.wrapped.bytes.clone()))
        .set_encryption_context(Some(scope().context().into_iter().collect()))
        .customize()
        .config_override(identity(&ready))
        .send()
        .await
        .unwrap();
    assert_eq!(
        opened.key_id(),
        Some(cmk.as_str()),
        "the wrap names its CMK"
    );
    let short = cmk.as_str().rsplit('/').next().unwrap();
    let described = call
        .describe_key()
        .key_id(short)
        .customize()
        .config_override(identity(&ready))
        .send()
        .await
        .unwrap();
    assert_eq!(described.key_metadata().unwrap().arn(), Some(cmk.as_str()));
    let other = call
        .list_keys()
        .customize()
        .config_override(identity(&ready))
        .send()
        .await
        .unwrap_err();
    assert_eq!(other.code(), Some("UnknownOperationException"));
    let size = call
        .generate_data_key()
        .key_id(cmk.as_str())
        .number_of_bytes(16)
        .customize()
        .config_override(identity(&ready))
        .send()
        .await
        .unwrap_err();
    assert_eq!(size.code(), Some("ValidationException"));
}
