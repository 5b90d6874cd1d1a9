use super::*;

fn name(record: &str) -> MessageName {
    MessageName {
        org: OrgId::new("acme").unwrap(),
        workspace: WorkspaceId::new("w1").unwrap(),
        channel: ChannelId::new("c1").unwrap(),
        hour: Hour::of_unix_seconds(0).unwrap(),
        record: RecordId::new(record).unwrap(),
    }
}

/// One event of a history. `A` acknowledged, `U` sent and unanswered, `N` not
/// done, `O` begun and never heard of again.
#[derive(Clone, Copy)]
enum Did {
    Put(&'static str, Vanishes, Answer),
    Del(Answer),
}

#[derive(Clone, Copy)]
enum Answer {
    A(i64),
    U(i64),
    N,
    O,
}

use Answer::{A, N, O, U};
use Did::{Del, Put};
use Vanishes::{AsBefore, At, Never};

fn enter(ledger: &Ledger, did: Did) {
    let (effect, asked, answer) = match did {
        Put(text, vanishes, answer) => {
            let text = TextId::of(text.as_bytes());
            (Effect::Put { text, vanishes }, vanishes, answer)
        }
        Del(answer) => (Effect::Delete, Never, answer),
    };
    let op = ledger.begin(&name("r"), effect).unwrap();
    let outcome = match answer {
        A(at) => Outcome::Acknowledged {
            at: WriteTime(at),
            vanishes: asked,
        },
        U(at) => Outcome::Unsure {
            at: Some(WriteTime(at)),
        },
        N => Outcome::NotDone,
        O => return,
    };
    ledger.answer(op, outcome).unwrap();
}

fn seen(text: &str, at: i64) -> Observed {
    Observed::Present {
        text: TextId::of(text.as_bytes()),
        at: WriteTime(at),
    }
}

fn at_s(s: i64) -> WallTime {
    WallTime(s * 1_000_000)
}

const ABSENT: Observed = Observed::Absent;

#[test]
fn what_may_be_seen_and_what_is_wrong() {
    use Wrong::{Lost, Overwritten, Revived, Torn, Undecryptable};
    type Case = (&'static str, Vec<Did>, Observed, Option<Wrong>);
    let cases: Vec<Case> = vec![
        ("nothing was ever done", vec![], ABSENT, None),
        ("a text from nowhere", vec![], seen("a", 1), Some(Revived)),
        ("written", vec![Put("a", Never, A(1))], seen("a", 1), None),
        (
            "written and gone",
            vec![Put("a", Never, A(1))],
            ABSENT,
            Some(Lost),
        ),
        (
            "written, another text",
            vec![Put("a", Never, A(1))],
            seen("b", 1),
            Some(Torn),
        ),
        (
            "the text at another write time",
            vec![Put("a", Never, A(1))],
            seen("a", 2),
            Some(Overwritten),
        ),
        (
            "edited",
            vec![Put("a", Never, A(1)), Put("b", Never, A(2))],
            seen("b", 2),
            None,
        ),
        (
            "edited, the old text",
            vec![Put("a", Never, A(1)), Put("b", Never, A(2))],
            seen("a", 1),
            Some(Overwritten),
        ),
        (
            "answered in the other order: the write time decides",
            vec![Put("b", Never, A(2)), Put("a", Never, A(1))],
            seen("b", 2),
            None,
        ),
        (
            "deleted",
            vec![Put("a", Never, A(1)), Del(A(2))],
            ABSENT,
            None,
        ),
        (
            "deleted and back",
            vec![Put("a", Never, A(1)), Del(A(2))],
            seen("a", 1),
            Some(Revived),
        ),
        (
            "deleted and written again",
            vec![Put("a", Never, A(1)), Del(A(2)), Put("b", Never, A(3))],
            seen("b", 3),
            None,
        ),
        (
            "deleted and written again, gone",
            vec![Put("a", Never, A(1)), Del(A(2)), Put("b", Never, A(3))],
            ABSENT,
            Some(Lost),
        ),
        (
            "a delete that came too late in time",
            vec![Put("a", Never, A(2)), Del(A(1))],
            seen("a", 2),
            None,
        ),
        (
            "an unanswered edit: the new",
            vec![Put("a", Never, A(1)), Put("b", Never, U(2))],
            seen("b", 2),
            None,
        ),
        (
            "an unanswered edit: the old",
            vec![Put("a", Never, A(1)), Put("b", Never, U(2))],
            seen("a", 1),
            None,
        ),
        (
            "an unanswered edit: gone",
            vec![Put("a", Never, A(1)), Put("b", Never, U(2))],
            ABSENT,
            Some(Lost),
        ),
        (
            "an unanswered edit that is older than an acknowledged one",
            vec![Put("b", Never, U(1)), Put("a", Never, A(2))],
            seen("b", 1),
            Some(Overwritten),
        ),
        (
            "an edit nobody heard of again, at a time nobody knows",
            vec![Put("a", Never, A(1)), Put("b", Never, O)],
            seen("b", 7),
            None,
        ),
        (
            "an unanswered delete: gone",
            vec![Put("a", Never, A(1)), Del(U(2))],
            ABSENT,
            None,
        ),
        (
            "an unanswered delete: still there",
            vec![Put("a", Never, A(1)), Del(O)],
            seen("a", 1),
            None,
        ),
        (
            "an unanswered delete from before the write",
            vec![Del(U(1)), Put("a", Never, A(2))],
            ABSENT,
            Some(Lost),
        ),
        (
            "a first write, unanswered",
            vec![Put("a", Never, O)],
            ABSENT,
            None,
        ),
        (
            "an edit that was not sent",
            vec![Put("a", Never, A(1)), Put("b", Never, N)],
            seen("b", 2),
            Some(Overwritten),
        ),
        // The read is at second 100.
        (
            "vanishes later: there",
            vec![Put("a", At(200), A(1))],
            seen("a", 1),
            None,
        ),
        (
            "vanishes later: gone",
            vec![Put("a", At(200), A(1))],
            ABSENT,
            Some(Lost),
        ),
        ("vanished", vec![Put("a", At(50), A(1))], ABSENT, None),
        (
            "vanished and there",
            vec![Put("a", At(50), A(1))],
            seen("a", 1),
            Some(Revived),
        ),
        (
            "vanished over a lasting text: that does not come back",
            vec![Put("a", Never, A(1)), Put("b", At(50), A(2))],
            seen("a", 1),
            Some(Revived),
        ),
        (
            "an unanswered edit that keeps an unknown expiry",
            vec![Put("a", At(50), A(1)), Put("b", AsBefore, U(2))],
            seen("b", 2),
            None,
        ),
        (
            "it does not open",
            vec![Put("a", Never, A(1))],
            Observed::Undecryptable {
                code: "tag_mismatch".to_owned(),
            },
            Some(Undecryptable),
        ),
        (
            "two at one time: either",
            vec![Put("a", Never, A(1)), Put("b", Never, A(1))],
            seen("a", 1),
            None,
        ),
    ];
    for (case, history, seen, expected) in cases {
        let ledger = Ledger::new();
        for did in history {
            enter(&ledger, did);
        }
        let began = ledger.reading(at_s(100));
        let found = ledger.judge(&name("r"), &seen, began, at_s(100));
        assert_eq!(found.map(|v| v.wrong), expected, "{case}");
    }
}

#[test]
fn what_was_acknowledged_after_the_read_began_may_show_or_not() {
    let ledger = Ledger::new();
    enter(&ledger, Put("a", Never, A(1)));
    let began = ledger.reading(at_s(100));
    enter(&ledger, Put("b", Never, A(2)));
    enter(&ledger, Del(A(3)));
    for seen in [seen("a", 1), seen("b", 2), ABSENT] {
        assert_eq!(ledger.judge(&name("r"), &seen, began, at_s(100)), None);
    }
    let began = ledger.reading(at_s(100));
    let late = ledger.judge(&name("r"), &seen("b", 2), began, at_s(100));
    assert_eq!(late.map(|v| v.wrong), Some(Wrong::Revived));
}

#[test]
fn at_the_edge_of_its_expiry_a_message_may_be_seen_or_not() {
    let ledger = Ledger::new();
    enter(&ledger, Put("a", At(100), A(1)));
    let judge = |seen: &Observed, from: i64, to: i64| {
        let began = ledger.reading(at_s(from));
        ledger
            .judge(&name("r"), seen, began, at_s(to))
            .map(|v| v.wrong)
    };
    assert_eq!(judge(&seen("a", 1), 99, 101), None);
    assert_eq!(judge(&ABSENT, 99, 101), None);
    assert_eq!(judge(&ABSENT, 98, 99), Some(Wrong::Lost));
    assert_eq!(judge(&seen("a", 1), 100, 101), Some(Wrong::Revived));
}

#[test]
fn a_check_covers_what_was_not_observed_and_what_nobody_wrote() {
    let ledger = Ledger::new();
    enter(&ledger, Put("a", Never, A(1)));
    let began = ledger.reading(at_s(100));
    let found = ledger.check([(name("stranger"), seen("x", 1))], began, at_s(100));
    assert_eq!(found.lost.len(), 1);
    assert_eq!(found.revived.len(), 1);
    assert_eq!(found.iter().count(), 2);
    let found = ledger.check([(name("r"), seen("a", 1))], began, at_s(100));
    assert!(found.is_empty());
}

#[test]
fn the_file_of_a_killed_process_tells_what_it_had_begun() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.jsonl");
    let ledger = Ledger::in_file(&path).unwrap();
    enter(&ledger, Put("a", Never, A(1)));
    enter(&ledger, Put("b", AsBefore, A(2)));
    enter(&ledger, Del(O));
    drop(ledger);
    // Killed in the middle of a line.
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend_from_slice(br#"{"event":"begun","op":3,"na"#);
    std::fs::write(&path, &bytes).unwrap();

    let read = Ledger::load([&path]).unwrap();
    assert_eq!(read.names(), [name("r")]);
    let began = read.reading(at_s(100));
    let judge = |seen: &Observed| {
        read.judge(&name("r"), seen, began, at_s(100))
            .map(|v| v.wrong)
    };
    assert_eq!(judge(&seen("b", 2)), None);
    assert_eq!(judge(&ABSENT), None);
    assert_eq!(judge(&seen("a", 1)), Some(Wrong::Revived));

    std::fs::write(&path, b"not a line\n").unwrap();
    assert!(Ledger::load([&path]).is_err());
}

/// Two processes, a file each, with operation numbers that are the same.
#[test]
fn ledgers_of_several_processes_are_read_together() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["one", "two"].map(|n| dir.path().join(n));
    for (path, did) in paths
        .iter()
        .zip([Put("a", Never, A(1)), Put("b", Never, A(2))])
    {
        enter(&Ledger::in_file(path).unwrap(), did);
    }
    let read = Ledger::load(&paths).unwrap();
    let began = read.reading(at_s(100));
    let found = |seen| read.check([(name("r"), seen)], began, at_s(100));
    assert!(found(seen("b", 2)).is_empty());
    assert_eq!(found(seen("a", 1)).overwritten.len(), 1);
}
