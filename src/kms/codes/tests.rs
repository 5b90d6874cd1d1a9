use super::*;

const TRANSIENT: KmsClass = KmsClass::Transient { throttled: false };

/// One row: operation, code, message, what is known, then what it must mean:
/// class, class after patience, blocked reason after patience.
pub(in crate::kms) struct Row {
    pub operation: &'static str,
    pub codes: &'static [&'static str],
    pub message: &'static str,
    pub around: Circumstance,
    pub class: KmsClass,
    pub given_up: KmsClass,
    pub reason: Option<&'static str>,
    pub patience: Patience,
}

fn row(codes: &'static [&'static str], message: &'static str, class: KmsClass) -> Row {
    Row {
        operation: DECRYPT,
        codes,
        message,
        around: Circumstance::default(),
        class,
        given_up: class,
        reason: None,
        patience: Patience::UntilGivenUp,
    }
}

impl Row {
    fn of(self, operation: &'static str) -> Self {
        Self { operation, ..self }
    }
    fn around(self, around: Circumstance) -> Self {
        Self { around, ..self }
    }
    fn then(self, given_up: KmsClass, patience: Patience) -> Self {
        Self {
            given_up,
            patience,
            ..self
        }
    }
    fn parks(self, reason: &'static str) -> Self {
        Self {
            reason: Some(reason),
            ..self
        }
    }
}

fn invalid_state(message: &'static str, class: KmsClass) -> Row {
    row(&["KMSInvalidStateException"], message, class)
}

fn side(side: Side) -> Circumstance {
    Circumstance {
        side: Some(side),
        ..Circumstance::default()
    }
}

pub(in crate::kms) fn table() -> Vec<Row> {
    use KmsClass::*;
    use Patience::*;
    let young = Circumstance {
        cmk_age: Some(Duration::from_secs(299)),
        ..side(Side::Target)
    };
    let grown = Circumstance {
        cmk_age: Some(Duration::from_secs(300)),
        ..side(Side::Target)
    };
    let mut rows = vec![
        row(
            &[
                "ThrottlingException",
                "Throttling",
                "RequestLimitExceeded",
                "TooManyRequestsException",
                "LimitExceededException",
            ],
            "",
            Transient { throttled: true },
        )
        .then(Unavailable, UntilGivenUp)
        .parks("kms_unavailable"),
        row(
            &[
                "KMSInternalException",
                "DependencyTimeoutException",
                "KeyUnavailableException",
                "InternalFailure",
                "InternalError",
                "ServiceUnavailable",
                "ServiceUnavailableException",
                "RequestTimeout",
                "RequestTimeoutException",
                NO_RESPONSE,
                UNREADABLE_RESPONSE,
                ROLE_UNKNOWN,
            ],
            "",
            TRANSIENT,
        )
        .then(Unavailable, UntilGivenUp)
        .parks("kms_unavailable"),
        row(&["SomethingNew"], "", TRANSIENT)
            .around(Circumstance { http_status: Some(503), ..Circumstance::default() })
            .then(Unavailable, UntilGivenUp)
            .parks("kms_unavailable"),
        row(&["SomethingNew"], "", Transient { throttled: true })
            .around(Circumstance { http_status: Some(429), ..Circumstance::default() })
            .then(Unavailable, UntilGivenUp)
            .parks("kms_unavailable"),
        row(
            &["ExpiredToken", "ExpiredTokenException", "RequestExpired", CREDENTIALS_PROVIDER_TIMEOUT, CREDENTIALS_PROVIDER_ERROR],
            "",
            TRANSIENT,
        )
        .then(Unavailable, Retries(1))
        .parks("credentials"),
        row(
            &["AccessDeniedException", "AccessDenied"],
            "User: x is not authorized because no resource-based policy allows the kms:Decrypt action",
            Denied,
        )
        .parks("revoked"),
        row(
            &["AccessDeniedException", "AccessDenied"],
            "User: x is not authorized because no identity-based policy allows the kms:Decrypt action",
            FatalJob,
        ),
        row(&["AccessDenied", "AccessDeniedException"], "", RoleDenied)
            .of(ASSUME_ROLE)
            .parks("role_denied"),
        row(&["DisabledException"], "", CmkUnusable).parks("cmk_disabled"),
        invalid_state("arn:x is pending deletion.", CmkUnusable).parks("cmk_pending_deletion"),
        invalid_state("arn:x is pending import.", CmkUnusable).parks("cmk_pending_import"),
        invalid_state("arn:x is unavailable.", CmkUnusable).parks("cmk_unavailable"),
        invalid_state("words of a later year", CmkUnusable).parks("cmk_invalid_state"),
        row(&["InvalidCiphertextException", "IncorrectKeyException", RESPONSE_MISMATCH], "", QuarantinedKey),
        row(&["NotFoundException"], "", CmkUnusable).around(side(Side::Source)).parks("cmk_not_found"),
        row(&["NotFoundException"], "", CmkUnusable).parks("cmk_not_found"),
        row(&["NotFoundException"], "", FatalJob).around(side(Side::Target)),
        row(&["NotFoundException"], "", FatalJob).around(grown),
        row(&["NotFoundException"], "", TRANSIENT)
            .around(young)
            .then(CmkUnusable, AtMost(CREATION_SETTLES))
            .parks("cmk_not_found"),
        row(&["InvalidGrantTokenException"], "", TRANSIENT).then(Denied, Retries(1)).parks("revoked"),
        row(
            &[
                "InvalidKeyUsageException",
                "ValidationException",
                "InvalidArnException",
                "UnsupportedOperationException",
                "SerializationException",
                "DryRunOperationException",
            ],
            "",
            FatalJob,
        ),
        row(
            &[
                "UnrecognizedClientException",
                "InvalidClientTokenId",
                "SignatureDoesNotMatch",
                "InvalidSignatureException",
                "IncompleteSignature",
                "MissingAuthenticationToken",
                "OptInRequired",
                "RegionDisabledException",
            ],
            "",
            FatalWorker,
        ),
        row(&["BrandNewException"], "", Unknown).parks("unknown:BrandNewException"),
        row(&["new\u{1b}[31m line\n"], "", Unknown).parks("unknown:new31mline"),
    ];
    for text in ["is creating", "is UPDATING"] {
        rows.push(
            invalid_state(text, TRANSIENT)
                .then(CmkUnusable, AtMost(Duration::from_secs(600)))
                .parks("cmk_creating"),
        );
    }
    for text in [
        "the external key store proxy did not respond in time",
        "the external key store proxy is not reachable",
        "the external key store proxy could not be reached",
        "the custom key store is unhealthy, its key unavailable",
    ] {
        rows.push(
            invalid_state(text, TRANSIENT)
                .then(CmkUnusable, Retries(2))
                .parks("key_store_unreachable"),
        );
    }
    for text in [
        "the external key store proxy denied access",
        "the external key is not enabled",
        "the proxy could not find the external key",
        "the proxy could not authenticate",
    ] {
        rows.push(invalid_state(text, CmkUnusable).parks("key_store_refuses"));
    }
    rows.push(
        invalid_state(
            "the ciphertext or additional authenticated data is corrupted",
            TRANSIENT,
        )
        .then(QuarantinedKey, Retries(2)),
    );
    rows
}

#[test]
fn every_row_of_the_table() {
    for row in table() {
        for code in row.codes {
            let error = KmsError::new(row.operation, *code, row.message, &row.around);
            let name = format!(
                "{} {code} {:?} {:?}",
                row.operation, row.message, row.around
            );
            assert_eq!(error.class, row.class, "{name}");
            if error.is_transient() {
                assert_eq!(error.cause().patience(), row.patience, "{name}");
                assert_eq!(
                    error.blocked_reason(),
                    None,
                    "transient errors do not park: {name}"
                );
            }
            let last = error.given_up();
            assert_eq!(last.class, row.given_up, "{name}");
            assert!(!last.is_transient(), "{name}");
            assert_eq!(last.blocked_reason().as_deref(), row.reason, "{name}");
        }
    }
}

#[test]
fn every_code_has_a_line_in_this_table() {
    let tested: Vec<&str> = table().iter().flat_map(|row| row.codes.to_vec()).collect();
    for (cause, codes) in CODES {
        for code in *codes {
            assert!(tested.contains(code), "{cause:?}: {code} is not tested");
            let twice = CODES.iter().filter(|(_, codes)| codes.contains(code));
            assert_eq!(twice.count(), 1, "{code} stands in two rows");
        }
    }
}

#[test]
fn the_side_of_a_refused_re_encrypt_is_what_its_message_says() {
    let arn = |n: u8| {
        crate::ids::CmkArn::new(format!("arn:aws:kms:eu-west-1:111122223333:key/k{n}")).unwrap()
    };
    let (from, to) = (arn(1), arn(2));
    for (message, side) in [
        (
            format!("User: u is not authorized to perform: kms:ReEncryptTo on resource: {to}"),
            Some(Side::Target),
        ),
        (
            format!("User: u is not authorized to perform: kms:ReEncryptFrom on resource: {from}"),
            Some(Side::Source),
        ),
        (format!("{from} is disabled."), Some(Side::Source)),
        (format!("{to} is pending deletion."), Some(Side::Target)),
        (format!("{from} and {to}"), None),
        (
            "the ciphertext refers to a key that does not exist".to_owned(),
            None,
        ),
    ] {
        let error = KmsError::new(RE_ENCRYPT, "X", message, &Circumstance::default());
        assert_eq!(error.side(&from, &to), side, "{error}");
    }
}

#[test]
fn a_text_never_makes_a_code_milder() {
    // The worst texts for each code that parks, quarantines or stops.
    let texts = [
        "creating",
        "did not respond in time",
        "throttled, try again",
        "timeout",
    ];
    for code in [
        "AccessDeniedException",
        "DisabledException",
        "InvalidCiphertextException",
        "Brand",
    ] {
        for text in texts {
            let class = classify(DECRYPT, code, text, &Circumstance::default());
            assert_eq!(
                class,
                classify(DECRYPT, code, "", &Circumstance::default()),
                "{code} {text}"
            );
        }
    }
}

#[test]
fn the_description_tells_disabled_from_pending_deletion() {
    let error = KmsError::new(DECRYPT, "DisabledException", "", &Circumstance::default());
    for (state, reason) in [
        (CmkState::Disabled, "cmk_disabled"),
        (CmkState::PendingDeletion, "cmk_pending_deletion"),
    ] {
        let described = CmkDescription {
            arn: crate::ids::CmkArn::new("arn:aws:kms:eu-west-1:111122223333:key/a").unwrap(),
            state,
            symmetric: true,
            deletion_ms: None,
            replicas: Vec::new(),
        };
        assert_eq!(
            error.blocked_reason_given(&described).as_deref(),
            Some(reason)
        );
    }
}

#[test]
fn what_smells_of_tampering_or_loss_alerts() {
    for (code, message, alerts) in [
        ("IncorrectKeyException", "", true),
        (RESPONSE_MISMATCH, "", true),
        ("NotFoundException", "", true),
        ("KMSInvalidStateException", "x is pending deletion", true),
        ("InvalidCiphertextException", "", false),
        ("AccessDeniedException", "", false),
        ("ThrottlingException", "", false),
    ] {
        let error = KmsError::new(DECRYPT, code, message, &Circumstance::default());
        assert_eq!(error.alerts(), alerts, "{code}");
    }
}
