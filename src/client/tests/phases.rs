//! Every phase of a copy and every pair of neighbours: one client follows the
//! new phase, the other has looked just before it came.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;

use super::bench::{AtRequest, Bench, channel_of, hour, record, s, why};
use super::mover::{Mover, settle};
use crate::client::{Channel, EditLifetime, Lifetime, PageLimit, ReasonCode};
use crate::clock::{Clock, FakeClock};
use crate::registry::CopyPhase;
use crate::store::{StoreError, StoreErrorClass, StoredCell};

const READ: ReasonCode = ReasonCode::MessageRead;
const WRITE: ReasonCode = ReasonCode::MessageWrite;
const EDIT: ReasonCode = ReasonCode::MessageEdit;
const HOUR: u64 = 0;

async fn write(channel: &Channel, name: &str, text: &str) -> crate::client::Written {
    let lifetime = Lifetime::Lasting;
    channel
        .write(
            hour(HOUR),
            &record(name),
            text.as_bytes(),
            lifetime,
            &why(WRITE),
        )
        .await
        .unwrap()
}

async fn read(channel: &Channel, name: &str) -> Option<String> {
    let message = channel.read(hour(HOUR), &record(name), &why(READ)).await;
    let message = message.unwrap()?;
    Some(String::from_utf8(message.text().to_vec()).unwrap())
}

async fn list(channel: &Channel) -> Vec<(String, String)> {
    let limit = PageLimit {
        rows: 2,
        bytes: 1 << 20,
    };
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let page = channel
            .list(hour(HOUR), after.as_ref(), limit, &why(READ))
            .await;
        let page = page.unwrap();
        for (record, message) in page.messages {
            let text = message.unwrap().text().to_vec();
            let name = record.as_bytes().to_vec();
            all.push((
                String::from_utf8(name).unwrap(),
                String::from_utf8(text).unwrap(),
            ));
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return all,
        }
    }
}

/// What both ends of a copy hold of a record: destination, source.
async fn ends(bench: &Bench, mover: &Mover, name: &str) -> [Option<StoredCell>; 2] {
    let (source, destination) = mover.ends();
    let (from, to) = (
        source.partition(hour(HOUR)),
        destination.partition(hour(HOUR)),
    );
    [
        bench.store.read_cell(&to, &record(name)).await.unwrap(),
        bench.store.read_cell(&from, &record(name)).await.unwrap(),
    ]
}

fn times(ends: &[Option<StoredCell>; 2]) -> [Option<i64>; 2] {
    [0, 1].map(|n| ends[n].as_ref().map(|cell| cell.write_time.0))
}

/// The same name as another client has it.
async fn another(bench: &Bench) -> Channel {
    channel_of(&bench.other_client().await, "c1")
}

/// Brings a copy up to a phase with the clients of this phase settled, and back:
/// `None` is before it is announced.
async fn settled_in(bench: &Bench, mover: &Mover, phase: Option<CopyPhase>) {
    let Some(phase) = phase else { return };
    mover.up_to(bench, phase, &[hour(HOUR)]).await;
    bench.clock.advance(settle());
}

/// The step from one phase to the next.
async fn step(bench: &Bench, mover: &Mover, next: CopyPhase) {
    match next {
        CopyPhase::Announced => mover.announce().await,
        next => mover.advance(next).await,
    }
    bench.clock.advance(s(1));
}

/// The rest of the way, with everything the worker does.
async fn to_the_end(bench: &Bench, mover: &Mover, from: CopyPhase) {
    for next in CopyPhase::ALL.into_iter().filter(|next| *next > from) {
        bench.clock.advance(settle());
        mover.before(next, bench, &[hour(HOUR)]).await;
        mover.advance(next).await;
    }
    bench.clock.advance(settle());
}

/// Each pair: the phase that the late client follows, and the one that has just
/// begun.
fn neighbours() -> [(Option<CopyPhase>, CopyPhase); 5] {
    let mut late = None;
    CopyPhase::ALL.map(|phase| (late.replace(phase), phase))
}

#[tokio::test]
async fn i14_neighbouring_phases_see_each_others_writes_edits_and_deletes_at_once() {
    for (late, now) in neighbours() {
        for late_acts_first in [true, false] {
            let context = format!("{late:?}, {now}, late first: {late_acts_first}");
            let bench = Bench::new().await;
            let before = bench.c1();
            for name in ["edited", "deleted", "kept"] {
                write(&before, name, "before").await;
            }
            let mover = Mover::of_c1(&bench).await;
            settled_in(&bench, &mover, late).await;
            if now == CopyPhase::Switched || now == CopyPhase::Moved {
                mover.copy(hour(HOUR)).await;
            }
            if now == CopyPhase::Closed {
                mover.before(now, &bench, &[hour(HOUR)]).await;
            }
            let (old, new) = (another(&bench).await, another(&bench).await);
            assert_eq!(read(&old, "kept").await.as_deref(), Some("before"));
            step(&bench, &mover, now).await;

            let (a, b) = if late_acts_first {
                (&old, &new)
            } else {
                (&new, &old)
            };
            let until = Lifetime::Until(bench.now_s() + 20);
            a.write(hour(HOUR), &record("vanishes"), b"v", until, &why(WRITE))
                .await
                .unwrap();
            write(a, "new", "first").await;
            assert_eq!(read(b, "new").await.as_deref(), Some("first"), "{context}");
            bench.clock.advance(s(1));
            let edit = |c: &Channel, text: &'static str| {
                let c = c.clone();
                async move {
                    let (r, keep) = (record("edited"), EditLifetime::Keep);
                    c.edit(hour(HOUR), &r, text.as_bytes(), keep, &why(EDIT))
                        .await
                        .unwrap();
                }
            };
            edit(b, "by b").await;
            assert_eq!(
                read(a, "edited").await.as_deref(),
                Some("by b"),
                "{context}"
            );
            edit(a, "by a").await;
            assert_eq!(
                read(b, "edited").await.as_deref(),
                Some("by a"),
                "{context}"
            );
            a.delete(hour(HOUR), &record("deleted")).await.unwrap();
            assert_eq!(read(b, "deleted").await, None, "{context}");
            write(a, "both", "x").await;
            bench.clock.advance(s(1));
            b.delete(hour(HOUR), &record("both")).await.unwrap();
            assert_eq!(read(a, "both").await, None, "{context}");
            assert_eq!(read(a, "vanishes").await.as_deref(), Some("v"), "{context}");
            bench.clock.advance(s(20));

            let expected = [("edited", "by a"), ("kept", "before"), ("new", "first")]
                .map(|(name, text)| (name.to_owned(), text.to_owned()));
            for who in [&old, &new] {
                assert_eq!(list(who).await, expected, "{context}");
                assert_eq!(read(who, "vanishes").await, None, "{context}");
            }
            to_the_end(&bench, &mover, now).await;
            for who in [&old, &new, &before] {
                assert_eq!(list(who).await, expected, "{context}, at the end");
            }
            for name in ["edited", "kept", "new", "deleted", "both"] {
                let [_, source] = ends(&bench, &mover, name).await;
                assert_eq!(source, None, "{context}: {name} is left in the source");
            }
        }
    }
}

/// Destination first, then source, at one write time; each cell opens where it
/// stands.
#[tokio::test]
async fn i14_a_write_has_one_time_in_both_places() {
    for phase in [CopyPhase::Mirrored, CopyPhase::Switched] {
        let bench = Bench::new().await;
        let mover = Mover::of_c1(&bench).await;
        settled_in(&bench, &mover, Some(phase)).await;
        let written = write(&bench.c1(), "m", "x").await;
        let both = ends(&bench, &mover, "m").await;
        assert_eq!(times(&both), [Some(written.write_time.0); 2]);
        let epochs = both.map(|cell| super::bench::header(&cell.unwrap()).0);
        // The destination has an epoch of its own.
        assert_eq!(epochs, [2, 1]);
        bench.clock.advance(s(1));
        bench.c1().delete(hour(HOUR), &record("m")).await.unwrap();
        assert_eq!(times(&ends(&bench, &mover, "m").await), [None; 2]);
    }
}

/// The client dies between the two places, and nobody is told anything. The
/// message is the old or the new one; it is there once, and it stays.
#[tokio::test]
async fn i14_a_client_that_dies_between_the_two_places_loses_nothing() {
    for phase in [CopyPhase::Mirrored, CopyPhase::Switched] {
        let bench = Bench::new().await;
        write(&bench.c1(), "m", "old").await;
        let mover = Mover::of_c1(&bench).await;
        settled_in(&bench, &mover, Some(phase)).await;
        *bench.taps.at_request.lock().unwrap() = Some(die());
        let (r, lasting) = (record("m"), Lifetime::Lasting);
        let died = bench
            .c1()
            .write(hour(HOUR), &r, b"new", lasting, &why(WRITE))
            .await;
        let at = died.unwrap_err().perhaps_written.unwrap();
        let [destination, source] = times(&ends(&bench, &mover, "m").await);
        assert_eq!(destination, Some(at.0), "{phase}: the destination is first");
        assert!(source.unwrap() < at.0);
        to_the_end(&bench, &mover, phase).await;
        let expected = [("m".to_owned(), "new".to_owned())];
        assert_eq!(list(&another(&bench).await).await, expected, "{phase}");
    }
}

#[tokio::test]
async fn i14_a_delete_that_died_between_the_two_places_never_comes_back_half() {
    for phase in [
        CopyPhase::Announced,
        CopyPhase::Mirrored,
        CopyPhase::Switched,
    ] {
        for again in [true, false] {
            let bench = Bench::new().await;
            write(&bench.c1(), "m", "old").await;
            write(&bench.c1(), "kept", "x").await;
            let mover = Mover::of_c1(&bench).await;
            settled_in(&bench, &mover, Some(phase)).await;
            *bench.taps.at_request.lock().unwrap() = Some(die());
            let died = bench.c1().delete(hour(HOUR), &record("m")).await;
            assert!(died.unwrap_err().perhaps_written.is_some());
            let [destination, source] = times(&ends(&bench, &mover, "m").await);
            assert_eq!(destination, None, "{phase}: the destination is first");
            assert!(source.is_some());
            if again {
                bench.clock.advance(s(1));
                bench.c1().delete(hour(HOUR), &record("m")).await.unwrap();
                assert_eq!(read(&another(&bench).await, "m").await, None);
            }
            to_the_end(&bench, &mover, phase).await;
            let expected = [("kept".to_owned(), "x".to_owned())];
            assert_eq!(list(&another(&bench).await).await, expected, "{phase}");
        }
    }
}

/// Called off, the source has everything, whoever follows it late.
#[tokio::test]
async fn a_copy_that_is_called_off_leaves_everything_in_the_source() {
    for phase in [CopyPhase::Announced, CopyPhase::Mirrored] {
        let bench = Bench::new().await;
        write(&bench.c1(), "before", "x").await;
        write(&bench.c1(), "deleted", "x").await;
        let mover = Mover::of_c1(&bench).await;
        settled_in(&bench, &mover, Some(phase)).await;
        if phase == CopyPhase::Mirrored {
            mover.copy(hour(HOUR)).await;
        }
        let old = another(&bench).await;
        write(&old, "during", "x").await;
        mover.call_off().await;
        let new = another(&bench).await;
        write(&old, "late", "x").await;
        old.delete(hour(HOUR), &record("deleted")).await.unwrap();
        write(&new, "after", "x").await;
        bench.clock.advance(settle());
        let names = |listed: Vec<(String, String)>| {
            let names = listed.into_iter().map(|(name, _)| name);
            names.collect::<Vec<_>>()
        };
        for who in [&old, &new] {
            let listed = names(list(who).await);
            assert_eq!(listed, ["after", "before", "during", "late"], "{phase}");
        }
        // And the next copy knows nothing of the one before.
        let mover = Mover::of_c1(&bench).await;
        mover.up_to(&bench, CopyPhase::Closed, &[hour(HOUR)]).await;
        bench.clock.advance(settle());
        let listed = names(list(&old).await);
        assert_eq!(listed, ["after", "before", "during", "late"], "{phase}");
    }
}

/// The phase changes between the store's answer and the caller's: the write is
/// repeated by the new route, at its own time.
#[tokio::test]
async fn i14_a_late_write_is_repeated_where_the_new_phase_writes() {
    let bench = Bench::new().await;
    let mover = Arc::new(Mover::of_c1(&bench).await);
    settled_in(&bench, &mover, Some(CopyPhase::Announced)).await;
    bench.age_view().await;
    let (its, clock) = (mover.clone(), bench.clock.clone());
    *bench.taps.at_request.lock().unwrap() = Some(AtRequest {
        after: Some(Box::new(move || {
            async move {
                its.advance(CopyPhase::Mirrored).await;
                clock.advance(s(5));
                Ok(())
            }
            .boxed()
        })),
        ..AtRequest::default()
    });
    let written = write(&bench.c1(), "m", "x").await;
    let both = times(&ends(&bench, &mover, "m").await);
    assert_eq!(both, [Some(written.write_time.0); 2]);
    assert_eq!(bench.counts().writes, 3);
}

/// A client with a clock of its own, which stands still between its request and
/// the answer while `meanwhile` happens.
struct Sleeper {
    channel: Channel,
    clock: Arc<FakeClock>,
    /// When it fell asleep, on the bench's clock.
    slept: Duration,
}

impl Sleeper {
    async fn new(bench: &Bench) -> Self {
        let clock = FakeClock::at(bench.clock.wall());
        let (client, _) = bench.client_on(clock.clone(), 100).await;
        Self {
            channel: channel_of(&client, "c1"),
            clock,
            slept: bench.clock.boot().0,
        }
    }

    /// Does `meanwhile` at one of its next requests, before the store has it or
    /// after. Then it looks at its clock again.
    fn stop(&self, bench: &Arc<Bench>, skip: u32, before: bool, meanwhile: impl Meanwhile) {
        let (world, clock, slept) = (bench.clone(), self.clock.clone(), self.slept);
        let awake = move || clock.advance(world.clock.boot().0 - slept);
        let world = bench.clone();
        let at = match before {
            true => AtRequest {
                skip,
                before: Some(Box::new(move || {
                    async move {
                        meanwhile.run(world).await;
                        Ok(())
                    }
                    .boxed()
                })),
                after: Some(Box::new(move || {
                    awake();
                    async move { Ok(()) }.boxed()
                })),
            },
            false => AtRequest {
                skip,
                before: None,
                after: Some(Box::new(move || {
                    async move {
                        meanwhile.run(world).await;
                        awake();
                        Ok(())
                    }
                    .boxed()
                })),
            },
        };
        *bench.taps.at_request.lock().unwrap() = Some(at);
    }
}

trait Meanwhile: Send + 'static {
    fn run(self, bench: Arc<Bench>) -> futures::future::BoxFuture<'static, ()>;
}

impl<F, R> Meanwhile for F
where
    F: FnOnce(Arc<Bench>) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    fn run(self, bench: Arc<Bench>) -> futures::future::BoxFuture<'static, ()> {
        self(bench).boxed()
    }
}

/// Deleted before the copy was announced, when only the source was told: the
/// destination knows nothing of it, and a repetition would bring it back.
#[tokio::test]
async fn i14_a_late_write_that_was_deleted_meanwhile_is_not_brought_back() {
    for phase in [CopyPhase::Mirrored, CopyPhase::Switched, CopyPhase::Closed] {
        let bench = Arc::new(Bench::new().await);
        let sleeper = Sleeper::new(&bench).await;
        let mover = Arc::new(Mover::of_c1(&bench).await);
        let its = mover.clone();
        sleeper.stop(&bench, 0, false, move |bench: Arc<Bench>| async move {
            bench.clock.advance(s(1));
            bench.c1().delete(hour(HOUR), &record("m")).await.unwrap();
            bench.clock.advance(s(1));
            its.up_to(&bench, phase, &[hour(HOUR)]).await;
        });
        write(&sleeper.channel, "m", "x").await;
        assert_eq!(
            times(&ends(&bench, &mover, "m").await),
            [None; 2],
            "{phase}"
        );
        assert_eq!(read(&sleeper.channel, "m").await, None);
        assert_eq!(
            bench.counts().writes,
            1,
            "{phase}: it looks before it repeats"
        );
    }
}

/// It reached the source after the last copy. Only the source shows it, which is
/// no place of the new route any more; it is not taken for replaced.
#[tokio::test]
async fn i14_a_write_that_reached_the_source_late_is_read_when_it_is_acknowledged() {
    for phase in [CopyPhase::Switched, CopyPhase::Moved] {
        let bench = Arc::new(Bench::new().await);
        write(&bench.c1(), "m", "old").await;
        bench.clock.advance(s(1));
        let sleeper = Sleeper::new(&bench).await;
        let mover = Arc::new(Mover::of_c1(&bench).await);
        let its = mover.clone();
        sleeper.stop(&bench, 0, true, move |bench: Arc<Bench>| async move {
            its.up_to(&bench, phase, &[hour(HOUR)]).await;
        });
        let written = write(&sleeper.channel, "m", "new").await;
        assert_eq!(
            read(&another(&bench).await, "m").await.as_deref(),
            Some("new")
        );
        let [destination, _] = times(&ends(&bench, &mover, "m").await);
        assert_eq!(destination, Some(written.write_time.0), "{phase}");
        to_the_end(&bench, &mover, phase).await;
        assert_eq!(
            read(&another(&bench).await, "m").await.as_deref(),
            Some("new")
        );
    }
}

/// Its route ran out between the two places, and the source has been left and
/// swept: nothing is written there any more.
#[tokio::test]
async fn i14_no_place_is_written_by_a_route_that_has_run_out() {
    let bench = Arc::new(Bench::new().await);
    let mover = Arc::new(Mover::of_c1(&bench).await);
    settled_in(&bench, &mover, Some(CopyPhase::Mirrored)).await;
    let sleeper = Sleeper::new(&bench).await;
    let its = mover.clone();
    sleeper.stop(&bench, 0, false, move |bench: Arc<Bench>| async move {
        to_the_end(&bench, &its, CopyPhase::Mirrored).await;
    });
    let written = write(&sleeper.channel, "m", "x").await;
    let both = times(&ends(&bench, &mover, "m").await);
    assert_eq!(both, [Some(written.write_time.0), None]);
    // The same for a delete.
    let bench = Arc::new(Bench::new().await);
    let mover = Arc::new(Mover::of_c1(&bench).await);
    settled_in(&bench, &mover, Some(CopyPhase::Mirrored)).await;
    let sleeper = Sleeper::new(&bench).await;
    let its = mover.clone();
    sleeper.stop(&bench, 0, false, move |bench: Arc<Bench>| async move {
        to_the_end(&bench, &its, CopyPhase::Mirrored).await;
    });
    sleeper
        .channel
        .delete(hour(HOUR), &record("m"))
        .await
        .unwrap();
    // Once by each route, and only where the new one deletes.
    assert_eq!(bench.counts().deletes, 2);
}

/// A vanishing message that is written by `announced` over a text that somebody
/// has written by `mirrored`. It is gone before the worker has copied anything.
#[tokio::test]
async fn i14_a_message_that_vanished_from_the_source_leaves_no_older_text_behind() {
    for edits in [true, false] {
        let bench = Bench::new().await;
        let mover = Mover::of_c1(&bench).await;
        settled_in(&bench, &mover, Some(CopyPhase::Announced)).await;
        let (late, new) = (another(&bench).await, another(&bench).await);
        assert_eq!(read(&late, "m").await, None);
        mover.advance(CopyPhase::Mirrored).await;
        write(&new, "m", "older").await;
        bench.clock.advance(s(1));
        let until = Lifetime::Until(bench.now_s() + 20);
        let r = record("m");
        match edits {
            true => {
                let lifetime = EditLifetime::Set(until);
                late.edit(hour(HOUR), &r, b"v", lifetime, &why(EDIT)).await
            }
            false => late.write(hour(HOUR), &r, b"v", until, &why(WRITE)).await,
        }
        .unwrap();
        assert_eq!(read(&new, "m").await.as_deref(), Some("v"));
        bench.clock.advance(s(40));
        assert_eq!(read(&new, "m").await, None);
        to_the_end(&bench, &mover, CopyPhase::Mirrored).await;
        assert_eq!(read(&new, "m").await, None);
    }
    // One that lasts longer is copied over what it has shaded.
    let bench = Bench::new().await;
    let mover = Mover::of_c1(&bench).await;
    settled_in(&bench, &mover, Some(CopyPhase::Announced)).await;
    let until = Lifetime::Until(bench.now_s() + 10_000);
    bench
        .c1()
        .write(hour(HOUR), &record("m"), b"v", until, &why(WRITE))
        .await
        .unwrap();
    to_the_end(&bench, &mover, CopyPhase::Announced).await;
    assert_eq!(read(&bench.c1(), "m").await.as_deref(), Some("v"));
}

/// It reached the source late and has vanished since. The older text that was
/// copied before it came is not shown again.
#[tokio::test]
async fn i14_a_late_message_that_has_vanished_leaves_no_older_text_behind() {
    for before in [true, false] {
        let bench = Arc::new(Bench::new().await);
        write(&bench.c1(), "m", "older").await;
        bench.clock.advance(s(1));
        let sleeper = Sleeper::new(&bench).await;
        let mover = Arc::new(Mover::of_c1(&bench).await);
        let its = mover.clone();
        sleeper.stop(&bench, 0, before, move |bench: Arc<Bench>| async move {
            its.up_to(&bench, CopyPhase::Moved, &[hour(HOUR)]).await;
        });
        let until = Lifetime::Until(bench.now_s() + 20);
        sleeper
            .channel
            .write(hour(HOUR), &record("m"), b"v", until, &why(WRITE))
            .await
            .unwrap();
        assert_eq!(read(&another(&bench).await, "m").await, None);
        to_the_end(&bench, &mover, CopyPhase::Moved).await;
        assert_eq!(read(&another(&bench).await, "m").await, None);
    }
}

/// A write that comes to the source between the sweep's look and its purge is
/// above the purge, and the next sweep finds it.
#[tokio::test]
async fn i14_a_purge_at_the_write_time_spares_the_next_microsecond() {
    let bench = Bench::new().await;
    let written = write(&bench.c1(), "m", "x").await;
    let mover = Mover::of_c1(&bench).await;
    settled_in(&bench, &mover, Some(CopyPhase::Moved)).await;
    let grabbed = mover.grab(hour(HOUR), &record("m")).await.unwrap();
    let [_, source] = ends(&bench, &mover, "m").await;
    let late = crate::store::CellWrite {
        record: record("m"),
        cell: source.unwrap().cell.into(),
        write_time: crate::clock::WriteTime(written.write_time.0 + 1),
        ttl_s: 0,
    };
    let from = mover.ends().0.partition(hour(HOUR));
    bench.store.write_cells(&from, &[late]).await.unwrap();
    mover.carry(&grabbed).await;
    mover.purge(&grabbed).await;
    let expected = written.write_time.0 + 1;
    let both = times(&ends(&bench, &mover, "m").await);
    assert_eq!(both, [Some(written.write_time.0), Some(expected)]);
    mover.sweep(hour(HOUR)).await;
    let both = times(&ends(&bench, &mover, "m").await);
    assert_eq!(both, [Some(expected), None]);
}

/// Copied on before the first copy is closed, and deleted between the two. The
/// source of the first still has the message; its sweep goes to the place that
/// knows of the delete, not straight to the one where the channel is now.
#[tokio::test]
async fn i14_what_was_deleted_between_two_copies_is_not_brought_back_by_the_sweep() {
    let bench = Bench::new().await;
    let (org, hours) = (super::bench::org(), [hour(HOUR)]);
    write(&bench.c1(), "m", "x").await;
    write(&bench.c1(), "kept", "x").await;
    let first = Mover::of_c1(&bench).await;
    first.up_to(&bench, CopyPhase::Moved, &hours).await;
    bench.clock.advance(settle());
    first.release().await;
    bench.c1().delete(hour(HOUR), &record("m")).await.unwrap();
    let second = Mover::new(&bench, (&org, "w2", "c9"), (&org, "w2", "c10")).await;
    second.up_to(&bench, CopyPhase::Moved, &hours).await;
    bench.clock.advance(settle());
    first.sweep(hour(HOUR)).await;
    assert_eq!(read(&bench.c1(), "m").await, None);
    assert_eq!(read(&bench.c1(), "kept").await.as_deref(), Some("x"));
    to_the_end(&bench, &second, CopyPhase::Moved).await;
    assert_eq!(list(&bench.c1()).await.len(), 1);
}

/// The place of a copy that was called off shows the write for ever. It is no
/// witness: the message was deleted since, in the source.
#[tokio::test]
async fn a_place_that_was_given_up_is_no_witness() {
    let bench = Arc::new(Bench::new().await);
    let first = Arc::new(Mover::of_c1(&bench).await);
    settled_in(&bench, &first, Some(CopyPhase::Mirrored)).await;
    let sleeper = Sleeper::new(&bench).await;
    let second = Arc::new(Mover::of_c1(&bench).await);
    let (given_up, its) = (first.clone(), second.clone());
    // At the answer of the source, the second of the two.
    sleeper.stop(&bench, 1, false, move |bench: Arc<Bench>| async move {
        given_up.call_off().await;
        bench.clock.advance(settle());
        bench.c1().delete(hour(HOUR), &record("m")).await.unwrap();
        its.up_to(&bench, CopyPhase::Switched, &[hour(HOUR)]).await;
    });
    write(&sleeper.channel, "m", "x").await;
    assert!(times(&ends(&bench, &first, "m").await)[0].is_some());
    assert_eq!(times(&ends(&bench, &second, "m").await), [None; 2]);
}

/// Two copies have been made since. The delete may be in the place between,
/// which the client does not know: it says so instead of writing.
#[tokio::test]
async fn a_write_that_slept_through_two_copies_is_not_repeated() {
    let bench = Arc::new(Bench::new().await);
    let sleeper = Sleeper::new(&bench).await;
    sleeper.stop(&bench, 0, true, move |bench: Arc<Bench>| async move {
        let (org, hours) = (super::bench::org(), [hour(HOUR)]);
        let first = Mover::of_c1(&bench).await;
        first.up_to(&bench, CopyPhase::Moved, &hours).await;
        first.before(CopyPhase::Closed, &bench, &[]).await;
        let second = Mover::new(&bench, (&org, "w2", "c9"), (&org, "w2", "c10")).await;
        second.up_to(&bench, CopyPhase::Moved, &hours).await;
    });
    let (r, lasting) = (record("m"), Lifetime::Lasting);
    let error = sleeper
        .channel
        .write(hour(HOUR), &r, b"x", lasting, &why(WRITE))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "stale");
    assert!(error.perhaps_written.is_some());
    assert_eq!(bench.counts().writes, 1);
}

/// A reader that stood still has looked into a place that was left and swept
/// meanwhile.
#[tokio::test]
async fn i14_an_answer_from_a_place_that_was_left_is_not_believed() {
    for lists in [true, false] {
        let bench = Arc::new(Bench::new().await);
        write(&bench.c1(), "m", "x").await;
        let sleeper = Sleeper::new(&bench).await;
        let mover = Arc::new(Mover::of_c1(&bench).await);
        let its = mover.clone();
        sleeper.stop(&bench, 0, true, move |bench: Arc<Bench>| async move {
            its.up_to(&bench, CopyPhase::Closed, &[hour(HOUR)]).await;
        });
        let at_read = bench.taps.at_request.lock().unwrap().take();
        *bench.taps.at_read.lock().unwrap() = at_read;
        match lists {
            true => assert_eq!(list(&sleeper.channel).await.len(), 1),
            false => assert_eq!(read(&sleeper.channel, "m").await.as_deref(), Some("x")),
        }
        assert!(ends(&bench, &mover, "m").await[1].is_none());
    }
}

/// Nothing was sent before the KMS answered, and that took long: the write's
/// time is from after it, and lies above the delete that was made meanwhile.
#[tokio::test]
async fn a_write_time_is_of_the_route_that_is_written_by() {
    let bench = Arc::new(Bench::new().await);
    let sleeper = Sleeper::new(&bench).await;
    let mover = Arc::new(Mover::of_c1(&bench).await);
    let (its, meanwhile, clock) = (mover.clone(), bench.clone(), sleeper.clock.clone());
    let slept = sleeper.slept;
    *bench.taps.in_kms.lock().unwrap() = Some(Box::new(move || {
        async move {
            its.up_to(&meanwhile, CopyPhase::Mirrored, &[hour(HOUR)])
                .await;
            clock.advance(meanwhile.clock.boot().0 - slept);
            Ok(())
        }
        .boxed()
    }));
    let begun = bench.clock.wall();
    let written = write(&sleeper.channel, "m", "x").await;
    assert!(written.write_time.0 >= begun.plus(settle()).0);
    let both = times(&ends(&bench, &mover, "m").await);
    assert_eq!(both, [Some(written.write_time.0); 2]);
}

fn die() -> AtRequest {
    let dead = || StoreError::new(StoreErrorClass::Transient, "the process is gone");
    AtRequest {
        after: Some(Box::new(move || async move { Err(dead()) }.boxed())),
        ..AtRequest::default()
    }
}
