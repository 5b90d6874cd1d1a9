//! What every code means, what brings it about, and what to do next. The one
//! place with these texts; the codes themselves are where they are given out,
//! and a test holds the two together.

use crate::cli::exit::Exit;

/// Where a code is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Where {
    /// A command ended with it.
    Command,
    /// A request for a job was refused with it, or a job failed or was blocked
    /// before it changed anything.
    Request,
    /// Slices of a job wait with it.
    Blocked,
    /// Cells were left as they are with it.
    Quarantined,
}

impl Where {
    pub fn in_words(self) -> &'static str {
        match self {
            Where::Command => "a command ends with it",
            Where::Request => {
                "a request is refused with it, or a job stops with it before anything is changed"
            }
            Where::Blocked => "slices wait with it (blocked); they are tried again by themselves",
            Where::Quarantined => "cells are left as they are with it (quarantined)",
        }
    }
}

/// One code in words.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(super) struct Explained {
    pub code: &'static str,
    #[serde(rename = "where")]
    pub of: Where,
    pub meaning: &'static str,
    pub cause: &'static str,
    pub next: &'static str,
}

const fn of(of: Where, words: [&'static str; 4]) -> Explained {
    let [code, meaning, cause, next] = words;
    Explained {
        code,
        of,
        meaning,
        cause,
        next,
    }
}

/// All that stand in a table.
pub(super) fn all() -> impl Iterator<Item = Explained> {
    let command = Exit::ALL.into_iter().map(exit);
    let request = REQUEST.iter().map(|words| of(Where::Request, *words));
    let blocked = BLOCKED.iter().map(|words| of(Where::Blocked, *words));
    let quarantined = QUARANTINED
        .iter()
        .map(|words| of(Where::Quarantined, *words));
    command.chain(request).chain(blocked).chain(quarantined)
}

fn exit(exit: Exit) -> Explained {
    let (meaning, cause, next) = match exit {
        Exit::Done => ("it was done", "nothing went wrong", "nothing"),
        Exit::Failed => (
            "something failed that has no code of its own",
            "a file, a row written by another version, a full disk: the message says what",
            "read the message; `rekeyd doctor` looks at everything that is needed",
        ),
        Exit::Usage => (
            "the command line, or the request it makes, is not valid; nothing was done",
            "a flag, an id or a span that is mistyped, or two that contradict each other",
            "`rekeyd help <command>` shows every flag with an example",
        ),
        Exit::Config => (
            "the configuration is not valid; nothing was done",
            "an unknown setting, a value out of its range, a key file that does not fit",
            "`rekeyd config check` lists all that is wrong; docs/configuration.md has every setting",
        ),
        Exit::NotSetUp => (
            "there is no store, queue or key ring here yet",
            "the first run, or another data directory than the one that was meant",
            "`rekeyd init`, or name the right place with `--data-dir` or `--config`",
        ),
        Exit::NotFound => (
            "there is no such organization, channel, job, record, CMK, rule or file",
            "a mistyped id, or a job whose message no worker has taken yet",
            "`rekeyd org list`, `rekeyd jobs --all` and `rekeyd kms list` show what there is",
        ),
        Exit::Conflict => (
            "what stands already, or the state something is in, does not allow it",
            "a job at its end, a job that is paused, an id that is taken",
            "see `rekeyd status <JOB>` or what the message names",
        ),
        Exit::Unavailable => (
            "store, queue or KMS did not answer in time, or somebody else changed the same row",
            "a node that is down, throttling, a network that is cut, two commands at once",
            "run the same command again; `rekeyd doctor` tells what does not answer",
        ),
        Exit::KmsRefused => (
            "the KMS refused, or the CMK cannot be used now",
            "a key policy that denies, a CMK that is disabled or pending deletion",
            "ask the owner of the CMK; `rekeyd doctor --org <ORG>` tries each",
        ),
        Exit::Unfit => (
            "`doctor` found something wrong",
            "a right that is missing, a clock that is off, a table that is not as it must be",
            "mend what it names, from the top, and run it again",
        ),
        Exit::MustNotDisable => (
            "the old CMK must not be disabled",
            "slices are blocked, cells are quarantined, or a later job made it active again",
            "`rekeyd failures <JOB>` lists them with the command that tries them again",
        ),
        Exit::JobFailed => (
            "the job failed, or its message was refused; no data was changed",
            "the request asks for what it may not have; the reason begins with a code of its own",
            "`rekeyd dlq list` or `rekeyd status <JOB>` shows it; `rekeyd explain` that code",
        ),
        Exit::JobCancelled => (
            "the job was cancelled",
            "an operator stopped it; `rekeyd history <JOB>` says who and why",
            "a later job finishes what is left, or goes back",
        ),
        Exit::Timeout => (
            "the time given with `--timeout` is over; the job goes on",
            "the job needs longer, waits for something, or no worker drives it",
            "`rekeyd status <JOB>` says how far it is and what it waits for",
        ),
        Exit::BadData => (
            "data is not as it should be: cells that do not open, an audit log that was changed",
            "damage, a restored backup, or somebody who wrote past rekeyd",
            "`rekeyd failures <JOB>` or `rekeyd audit verify` names them; change nothing before it is understood",
        ),
        Exit::MoveUnfinished => (
            "a move of a channel is not at its end",
            "slices wait for a key, or cells are under the old scope or in an old place",
            "`rekeyd failures <JOB>`; runbooks/move-a-channel.md",
        ),
        Exit::Interrupted => (
            "Ctrl-C or SIGTERM ended the command; what it had started is ended too",
            "somebody stopped it",
            "run it again",
        ),
    };
    of(Where::Command, [exit.as_str(), meaning, cause, next])
}

type Words = [&'static str; 4];

const REQUEST: &[Words] = &[
    [
        "unknown_envelope",
        "the message is wrapped in something that is not read",
        "an SNS or EventBridge envelope of another form",
        "send the message itself, or in a form of docs/queue-sqs.md",
    ],
    [
        "too_large",
        "the message has more bytes than are read",
        "something that is no job message",
        "send a message as `rekeyd schema job` describes it",
    ],
    [
        "not_json",
        "the message is no JSON object",
        "something that is no job message",
        "send a message as `rekeyd schema job` describes it",
    ],
    [
        "unknown_version",
        "the message is of a version that this worker does not read",
        "a sender that is newer than the workers",
        "bring the workers up to date, then `rekeyd dlq redrive`",
    ],
    [
        "unknown_kind",
        "the message asks for a kind of job that this worker does not do",
        "a sender that is newer than the workers, or a slip",
        "send `rekey` or `channel_move`",
    ],
    [
        "bad_field",
        "a field is missing, unknown or not as it must be",
        "a slip; the reason names the field",
        "mend it and ask again with a new job id",
    ],
    [
        "bad_request",
        "the fields contradict each other",
        "such as a rewrap without its cause",
        "mend it and ask again with a new job id",
    ],
    [
        "job_id_taken",
        "another request has this job id",
        "a message that was changed and sent again under its old id",
        "ask again with a new job id",
    ],
    [
        "too_late",
        "the job was not begun before its `not_after`",
        "no worker ran, or earlier work took too long",
        "ask again with a later time",
    ],
    [
        "unknown_org",
        "the organization is not in the registry",
        "a mistyped name, or one that was never entered",
        "`rekeyd org list`; enter it with `rekeyd org add`",
    ],
    [
        "cmk_not_allowed",
        "the CMK is not on the organization's allow-list",
        "nobody entered it, or the message is forged",
        "an operator enters it with `rekeyd org allow-cmk <ORG> <ARN>`",
    ],
    [
        "cmk_source_only",
        "the CMK was left by a finished rekey and is no target any more",
        "an old message that came again, or a way back that is meant",
        "if it is meant, `rekeyd org allow-cmk <ORG> <ARN>` enters it again",
    ],
    [
        "from_mismatch",
        "the job names another CMK as active than the registry",
        "another job came first",
        "`rekeyd org show <ORG>` shows the active CMK; ask again from it",
    ],
    [
        "same_cmk",
        "the organization is under this CMK already",
        "the job was done before",
        "nothing, or name another target",
    ],
    [
        "rewrap_across_regions",
        "a rewrap cannot go from one Region to another",
        "the KMS re-encrypts within a Region only",
        "ask for `--mode reencrypt`",
    ],
    [
        "unknown_channel",
        "the organization has no such channel",
        "a mistyped id, or a channel without messages",
        "`rekeyd org show <ORG>` lists its channels",
    ],
    [
        "wrong_workspace",
        "the channel is in another workspace than the move says",
        "a mistyped id, or an earlier move",
        "`rekeyd org show <ORG>` shows where it is",
    ],
    [
        "destination_exists",
        "the destination is a channel already",
        "a move never mixes two channels",
        "name a channel id that is not in use there",
    ],
    [
        "move_running",
        "the channel is being copied",
        "another move of it has not been left by every client yet",
        "wait for that job, or cancel it",
    ],
    [
        "moved_away",
        "the channel has gone to another name",
        "an earlier move",
        "move it from where it is now",
    ],
    [
        "no_consent",
        "an organization has not consented to the move",
        "no consent, or one that has run out",
        "`rekeyd org consent-move`, in both organizations",
    ],
    [
        "epoch_exhausted",
        "the organization has used up its epochs",
        "more than a million rekeys and moves",
        "no job can be made for it in this version of the format",
    ],
    [
        "store_unfit",
        "a table or a server is not as it must be",
        "a setting of the cluster that would break a promise",
        "`rekeyd schema check` lists all with their fixes",
    ],
    [
        "clock_skew",
        "the store's clock and the worker's are too far apart",
        "NTP does not run on one of them",
        "set the clocks and ask again",
    ],
    [
        "source_not_allowed",
        "the active CMK has no canary on the allow-list",
        "a registry row that was changed by hand",
        "`rekeyd org allow-cmk <ORG> <ARN>` enters it anew",
    ],
    [
        "policy_drift",
        "the rekey would lift what only the old CMK's key policy denies",
        "a Deny on Decrypt or GenerateDataKey that the new CMK's key policy lacks",
        "add it to the new CMK's key policy and `rekeyd retry <JOB>`; or cancel, and ask again with `--accept-lifted-deny <SHA-256>`",
    ],
    [
        "target_not_enabled",
        "the target CMK is not enabled",
        "it is disabled, pending deletion or waits for its material",
        "enable it and ask again",
    ],
    [
        "target_not_symmetric",
        "the target CMK cannot wrap data keys",
        "it is for signing, or asymmetric",
        "name a symmetric encryption key",
    ],
    [
        "target_unusable",
        "the KMS refuses the target CMK",
        "a policy that does not let the worker's role in",
        "`rekeyd iam-policy` prints what is needed; then ask again",
    ],
    [
        "context_not_bound",
        "the target opened a wrap with another encryption context",
        "a KMS that does not bind the context: revoking by scope would have no effect",
        "use another KMS; this one cannot keep the promise",
    ],
    [
        "kms_unavailable",
        "the KMS did not answer while the CMKs were tried",
        "a network that is cut, or throttling",
        "nothing: it is tried again by itself; `rekeyd retry <JOB>` does it at once",
    ],
];

const BLOCKED: &[Words] = &[
    [
        "revoked",
        "the key policy denies this scope",
        "the customer revoked a channel or a span of hours",
        "ask the customer; when it is lifted on both CMKs: `rekeyd retry <JOB> --blocked`",
    ],
    [
        "cmk_denied",
        "the key policy denies the whole CMK",
        "the customer shut rekeyd out, or a policy was changed",
        "ask the customer; `rekeyd iam-policy` prints what is needed",
    ],
    [
        "role_denied",
        "the role of the customer's cannot be assumed",
        "its trust policy or the external id has changed",
        "`rekeyd org show <ORG>`, and the trust policy that `rekeyd iam-policy` prints",
    ],
    [
        "credentials",
        "the worker's own credentials are refused",
        "they have run out or were taken away",
        "mend them where the worker runs; `rekeyd doctor` tries them",
    ],
    [
        "kms_unavailable",
        "the KMS did not answer in time",
        "a network that is cut, throttling, an outage",
        "nothing: it is tried again by itself",
    ],
    [
        "cmk_disabled",
        "the CMK is disabled",
        "somebody disabled it",
        "enable it, then `rekeyd retry <JOB> --blocked`",
    ],
    [
        "cmk_pending_deletion",
        "the CMK's deletion is scheduled",
        "somebody scheduled it",
        "at once: cancel the deletion and enable it, or its data is lost",
    ],
    [
        "cmk_pending_import",
        "the CMK waits for its key material",
        "imported material was deleted or has expired",
        "import the same material again",
    ],
    [
        "cmk_not_found",
        "there is no such CMK",
        "it was deleted, or is in another account or Region",
        "if it was deleted, what is under it alone is lost",
    ],
    [
        "cmk_unavailable",
        "the CMK's own key store is disconnected",
        "a custom key store that was disconnected",
        "connect it, then `rekeyd retry <JOB> --blocked`",
    ],
    [
        "cmk_creating",
        "the CMK is being made or copied to another Region",
        "it is new",
        "wait; it is tried again by itself",
    ],
    [
        "cmk_invalid_state",
        "the CMK is in a state that does not allow its use",
        "see its state in the KMS",
        "bring it to `Enabled`, then `rekeyd retry <JOB> --blocked`",
    ],
    [
        "key_store_unreachable",
        "the KMS cannot reach the external key store",
        "the customer's key store or its proxy is down",
        "the customer mends it; it is tried again by itself",
    ],
    [
        "key_store_refuses",
        "the external key store refuses",
        "the customer's key store has a rule against it",
        "ask the customer",
    ],
    [
        "unknown",
        "the KMS answered with a code that this version does not know; it stands after the colon",
        "a newer KMS",
        "look the code up at the KMS; it is tried again by itself",
    ],
];

const QUARANTINED: &[Words] = &[
    [
        "cell_too_short",
        "the cell is shorter than its header",
        "damage",
        "mend it from a backup or delete it",
    ],
    [
        "bad_epoch",
        "the cell does not begin with an epoch",
        "damage, or not written by rekeyd",
        "mend it from a backup or delete it",
    ],
    [
        "unknown_version",
        "the cell is of a version that is not read here",
        "a newer writer, or damage",
        "bring the workers up to date, then `rekeyd retry <JOB> --quarantined`",
    ],
    [
        "unknown_suite",
        "the cell is of a cipher that is not read here",
        "a newer writer, or damage",
        "bring the workers up to date, then `rekeyd retry <JOB> --quarantined`",
    ],
    [
        "epoch_above_newest",
        "the cell's epoch was never given out",
        "not written by who may write",
        "find out who wrote it; mend it or delete it",
    ],
    [
        "epoch_below_floor",
        "the cell is older than what may still be there",
        "an old cell was put back",
        "find out who wrote it; a backup is restored through the runbook only",
    ],
    [
        "wrap_below_floor",
        "the key's wrap is older than what may still be there",
        "an old key row was put back",
        "find out who wrote it",
    ],
    [
        "bad_expiry",
        "the cell's expiry is out of range",
        "damage, or a writer with a wrong clock",
        "mend it or delete it",
    ],
    [
        "ttl_mismatch",
        "the store lets the cell expire, and its header says that it lasts",
        "not written by rekeyd, or a table with a default TTL",
        "write it again with the client, or delete it",
    ],
    [
        "plaintext_too_large",
        "the cell holds more than a message may have",
        "not written by rekeyd",
        "mend it or delete it",
    ],
    [
        "tag_mismatch",
        "the cell does not open: it is not what was sealed here",
        "damage, or a cell that was copied from elsewhere",
        "mend it from a backup or delete it, then `rekeyd retry <JOB> --quarantined`",
    ],
    [
        "key_id_mismatch",
        "the cell names another key than the one it was to open with",
        "damage",
        "mend it from a backup or delete it",
    ],
    [
        "key_row_missing",
        "the key that the cell names has no row",
        "a key row was deleted, or the cell comes from elsewhere, as a backup from before a retire",
        "restore the key row from a backup; after a retire, in a restore window, a rekey opens the \
         cell with what was set aside (`rekeyd help restore-window open`)",
    ],
    [
        "key_row_malformed",
        "the key's row does not parse",
        "damage",
        "restore the key row from a backup",
    ],
    [
        "key_row_misplaced",
        "the key's row stands at another address than it says",
        "a row that was copied",
        "find out who wrote it",
    ],
    [
        "scope_mismatch",
        "the key is of another scope than the cell",
        "a cell or key row that was copied from elsewhere",
        "find out who wrote it",
    ],
    [
        "cmk_not_allowed",
        "every wrap of the key is under a CMK that the organization does not list",
        "a row that was taken off the allow-list, or a key row from elsewhere",
        "`rekeyd org allow-cmk` if the CMK is the organization's",
    ],
    [
        "commitment_mismatch",
        "the unwrapped key is not the one that the row promises",
        "a key row that was changed",
        "restore the key row from a backup",
    ],
    [
        "store_refused",
        "the store refuses the new cell as such",
        "a guardrail of the cluster, or a limit on sizes",
        "see the worker's log for the store's words; lift the limit",
    ],
    [
        "key_unwrap",
        "the KMS cannot open the wrap; its code stands after the colon",
        "a wrap that was changed",
        "restore the key row from a backup",
    ],
    [
        "wrap_below_job",
        "the newest wrap of the key is older than the job",
        "a write that landed late; the next round rewrites it",
        "`rekeyd retry <JOB> --quarantined` if it stays",
    ],
    [
        "wrap_under_other_cmk",
        "the newest wrap of the key is under another CMK than the job's",
        "a later job, or a row from elsewhere",
        "see `rekeyd jobs --org <ORG> --all`",
    ],
    [
        "wrap_epoch_unknown",
        "the wrap's epoch belongs to no job that is known",
        "a key row from elsewhere",
        "find out who wrote it",
    ],
    [
        "wrap_place_taken",
        "another wrap stands where the new one was to go",
        "a key row from elsewhere",
        "find out who wrote it",
    ],
    [
        "scope_of_before_the_move",
        "the key is still of the workspace that the channel has left",
        "a write that landed late; the next round rewrites it",
        "`rekeyd retry <JOB> --quarantined` if it stays",
    ],
    [
        "key_quarantined",
        "the KMS says that the wrap itself is damaged",
        "a wrap that was changed, or damage in a key store",
        "restore the key row from a backup",
    ],
];
