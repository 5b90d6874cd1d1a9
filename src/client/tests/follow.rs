//! Names that have moved, are about to, or lead in a circle.

use super::bench::{Bench, channel_of, hour, org, other_org, record, s, w1, why};
use super::mover::{Mover, channel_id, settle, w2};
use crate::client::{
    Channel, Client, ClientError, EditLifetime, ErrorClass, ErrorKind, Lifetime, Message,
    ReasonCode,
};
use crate::ids::{OrgId, WorkspaceId};
use crate::registry::CopyPhase;

const READ: ReasonCode = ReasonCode::MessageRead;
const WRITE: ReasonCode = ReasonCode::MessageWrite;

fn named(client: &Client, org: &OrgId, workspace: &WorkspaceId, channel: &str) -> Channel {
    client
        .organization(org)
        .channel(workspace, &channel_id(channel))
}

async fn read(channel: &Channel) -> Result<Option<Message>, ClientError> {
    channel.read(hour(0), &record("m"), &why(READ)).await
}

async fn reads(channel: &Channel, text: &str) {
    let message = read(channel).await.unwrap().unwrap();
    assert_eq!(message.text(), text.as_bytes());
}

async fn write(channel: &Channel, text: &str) -> Result<(), ClientError> {
    let (r, lasting) = (record("m"), Lifetime::Lasting);
    channel
        .write(hour(0), &r, text.as_bytes(), lasting, &why(WRITE))
        .await
        .map(|_| ())
}

async fn code_of(channel: &Channel) -> &'static str {
    read(channel).await.unwrap_err().code()
}

#[tokio::test]
async fn within_its_organization_a_channel_is_followed_and_its_new_name_waits_for_it() {
    let bench = Bench::new().await;
    write(&bench.c1(), "x").await.unwrap();
    let mover = Mover::of_c1(&bench).await;
    let new_name = named(&bench.client, &org(), &w2(), "c9");
    let nobodys = named(
        &bench.client,
        &org(),
        &WorkspaceId::new("w3").unwrap(),
        "c9",
    );
    assert_eq!(code_of(&new_name).await, "not_found");
    mover.announce().await;
    for next in [CopyPhase::Mirrored, CopyPhase::Switched] {
        let error = write(&new_name, "y").await.unwrap_err();
        assert_eq!(
            (error.code(), error.class()),
            ("moving", ErrorClass::Transient)
        );
        assert_eq!(error.perhaps_written, None);
        match &error.kind {
            ErrorKind::Moving(moving) => {
                assert_eq!(moving.job, mover.request.job_id);
                assert_eq!(moving.from, (org(), channel_id("c1")));
            }
            other => panic!("{other:?}"),
        }
        assert!(
            error
                .to_string()
                .contains(&mover.request.job_id.to_string())
        );
        bench.clock.advance(settle());
        mover.before(next, &bench, &[hour(0)]).await;
        reads(&bench.c1(), "x").await;
        // It has been refused a moment ago, and that is still remembered.
        assert_eq!(code_of(&new_name).await, "moving");
        mover.advance(next).await;
    }
    // No refusal is believed from memory.
    reads(&new_name, "x").await;
    bench.clock.advance(s(1));
    write(&new_name, "y").await.unwrap();
    reads(&bench.c1(), "y").await;
    bench.clock.advance(s(60));
    reads(&bench.c1(), "y").await;
    let keep = EditLifetime::Keep;
    let edited = bench
        .c1()
        .edit(
            hour(0),
            &record("m"),
            b"z",
            keep,
            &why(ReasonCode::MessageEdit),
        )
        .await;
    edited.unwrap();
    reads(&new_name, "z").await;
    bench.c1().delete(hour(0), &record("m")).await.unwrap();
    assert!(read(&new_name).await.unwrap().is_none());
    // The workspace is asked of the name that the caller used.
    assert_eq!(code_of(&nobodys).await, "not_found");
}

#[tokio::test]
async fn a_copy_that_is_called_off_gives_its_name_up() {
    let bench = Bench::new().await;
    write(&bench.c1(), "x").await.unwrap();
    let mover = Mover::of_c1(&bench).await;
    let new_name = named(&bench.client, &org(), &w2(), "c9");
    mover.announce().await;
    assert_eq!(code_of(&new_name).await, "moving");
    mover.call_off().await;
    // Nor is this one.
    assert_eq!(code_of(&new_name).await, "not_found");
    reads(&bench.c1(), "x").await;
}

#[tokio::test]
async fn to_another_organization_the_error_says_where() {
    let bench = Bench::new().await;
    write(&bench.c1(), "x").await.unwrap();
    let late = channel_of(&bench.other_client().await, "c1");
    let mover = Mover::new(&bench, (&org(), "w1", "c1"), (&other_org(), "w2", "c1")).await;
    let there = named(&bench.client, &other_org(), &w2(), "c1");
    mover.up_to(&bench, CopyPhase::Mirrored, &[hour(0)]).await;
    bench.clock.advance(settle());
    assert_eq!(code_of(&there).await, "moving");
    mover.copy(hour(0)).await;
    reads(&late, "x").await;
    bench.clock.advance(s(1));
    mover.advance(CopyPhase::Switched).await;
    // The late one goes on where it is, for a moment.
    write(&late, "y").await.unwrap();
    reads(&there, "y").await;
    for error in [
        read(&bench.c1()).await.unwrap_err(),
        write(&bench.c1(), "z").await.unwrap_err(),
        bench.c1().delete(hour(0), &record("m")).await.unwrap_err(),
    ] {
        assert_eq!(
            (error.code(), error.class()),
            ("moved_to", ErrorClass::Moved)
        );
        assert_eq!(error.perhaps_written, None);
        match &error.kind {
            ErrorKind::MovedTo(to) => assert_eq!(**to, mover.request.destination()),
            other => panic!("{other:?}"),
        }
        assert!(error.to_string().contains("other/w2/c1"), "{error}");
    }
    bench.clock.advance(s(60));
    assert_eq!(code_of(&late).await, "moved_to");
    reads(&there, "y").await;
}

/// There and back, with a memory of each name from another moment: c1 led to
/// c9, and now c9 leads to c1.
#[tokio::test]
async fn names_that_lead_in_a_circle_are_read_afresh() {
    let bench = Bench::new().await;
    write(&bench.c1(), "x").await.unwrap();
    let there = Mover::of_c1(&bench).await;
    there.up_to(&bench, CopyPhase::Closed, &[hour(0)]).await;
    let back = Mover::new(&bench, (&org(), "w2", "c9"), (&org(), "w1", "c1")).await;
    bench.clock.advance(settle());
    back.up_to(&bench, CopyPhase::Mirrored, &[hour(0)]).await;
    bench.clock.advance(settle());
    back.copy(hour(0)).await;
    let c9 = named(&bench.client, &org(), &w2(), "c9");
    // c9 is read now, c1 half a status time later.
    reads(&c9, "x").await;
    bench.clock.advance(s(30));
    reads(&bench.c1(), "x").await;
    back.advance(CopyPhase::Switched).await;
    bench.clock.advance(s(31));
    // What is known of c1 still holds and leads to c9, which leads back.
    reads(&bench.c1(), "x").await;
    reads(&c9, "x").await;
    bench.clock.advance(s(1));
    write(&c9, "y").await.unwrap();
    reads(&channel_of(&bench.other_client().await, "c1"), "y").await;
}

#[tokio::test]
async fn a_chain_of_names_is_followed() {
    let bench = Bench::new().await;
    write(&bench.c1(), "x").await.unwrap();
    for (from, to) in [("c1", "n2"), ("n2", "n3"), ("n3", "n4")] {
        let workspace = if from == "c1" { "w1" } else { "w2" };
        let mover = Mover::new(&bench, (&org(), workspace, from), (&org(), "w2", to)).await;
        mover.up_to(&bench, CopyPhase::Closed, &[hour(0)]).await;
        bench.clock.advance(settle());
        reads(&bench.c1(), "x").await;
        reads(&named(&bench.client, &org(), &w2(), to), "x").await;
    }
    write(&bench.c1(), "y").await.unwrap();
    reads(&named(&bench.client, &org(), &w2(), "n2"), "y").await;
}

#[tokio::test]
async fn a_channel_is_entered_once_and_found_under_every_name_it_had() {
    let bench = Bench::new().await;
    let organization = bench.client.organization(&org());
    let ensure = async |workspace: WorkspaceId, channel: &str| {
        organization
            .ensure_channel(&workspace, &channel_id(channel))
            .await
    };
    write(&ensure(w1(), "new").await.unwrap(), "x")
        .await
        .unwrap();
    reads(&ensure(w1(), "new").await.unwrap(), "x").await;
    let code = |result: Result<Channel, ClientError>| result.err().map(|e| e.code());
    assert_eq!(code(ensure(w2(), "new").await), Some("not_found"));

    // In place: the old workspace's name still finds it.
    let moved = Mover::new(&bench, (&org(), "w1", "new"), (&org(), "w2", "new")).await;
    moved.announce().await;
    for workspace in [w1(), w2()] {
        reads(&ensure(workspace, "new").await.unwrap(), "x").await;
    }

    // A destination is nobody's yet; a channel that has gone is where it went.
    write(&bench.c1(), "y").await.unwrap();
    let mover = Mover::of_c1(&bench).await;
    mover.announce().await;
    assert_eq!(code(ensure(w2(), "c9").await), Some("moving"));
    reads(&ensure(w1(), "c1").await.unwrap(), "y").await;
    for next in [CopyPhase::Mirrored, CopyPhase::Switched] {
        bench.clock.advance(settle());
        mover.before(next, &bench, &[hour(0)]).await;
        mover.advance(next).await;
    }
    reads(&ensure(w1(), "c1").await.unwrap(), "y").await;
    reads(&ensure(w2(), "c9").await.unwrap(), "y").await;

    let abroad = Mover::new(&bench, (&org(), "w1", "c2"), (&other_org(), "w2", "c2")).await;
    abroad.up_to(&bench, CopyPhase::Switched, &[hour(0)]).await;
    assert_eq!(code(ensure(w1(), "c2").await), Some("moved_to"));
}
