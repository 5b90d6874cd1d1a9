//! Where a name leads, in every phase and through several copies.

use std::sync::Arc;

use super::bench::{Bench, acme, channel, other, request};
use crate::ids::{OrgId, Place};
use crate::registry::{CalledOff, ChannelView, CopyPhase, Places, Route};

async fn route(bench: &Bench, org: &OrgId, name: &str) -> Route {
    bench.registry.route(org, &channel(name)).await.unwrap()
}

async fn here(bench: &Bench, name: &str) -> Places {
    match route(bench, &acme(), name).await {
        Route::Here(places) => places,
        other => panic!("{name}: {other:?}"),
    }
}

async fn leads_to(bench: &Bench, name: &str) -> String {
    match route(bench, &acme(), name).await {
        Route::MovedTo(to) => to.to_string(),
        other => panic!("{name}: {other:?}"),
    }
}

fn places(views: &[Arc<ChannelView>]) -> Vec<Place> {
    let places = views.iter().map(|view| view.channel_row.place.clone());
    places.collect()
}

/// The table of [`CopyPhase`], row by row.
#[tokio::test]
async fn i14_each_phase_reads_writes_and_deletes_where_the_table_says() {
    let (s, d) = (false, true);
    let table: [(CopyPhase, bool, &[bool], &[bool]); 5] = [
        (CopyPhase::Announced, s, &[s], &[d, s]),
        (CopyPhase::Mirrored, s, &[d, s], &[d, s]),
        (CopyPhase::Switched, d, &[d, s], &[d, s]),
        (CopyPhase::Moved, d, &[d], &[d]),
        (CopyPhase::Closed, d, &[d], &[d]),
    ];
    for org in [acme(), other()] {
        let bench = Bench::new().await;
        let move_it = request("acme/w1/c1", &format!("{org}/w2/c9"));
        for consenting in [acme(), other()] {
            bench.consent(&consenting, &move_it, 1000).await;
        }
        bench.activate(&move_it).await;
        let source = bench.row(&acme(), "c1").await.place;
        let destination = bench.row(&org, "c9").await.place;
        assert_ne!(source, destination);
        let of = |d: &bool| if *d { &destination } else { &source };
        for (phase, read, write, delete) in table {
            bench.advance(&move_it, phase).await;
            let (by_source, by_destination) = (
                route(&bench, &acme(), "c1").await,
                route(&bench, &org, "c9").await,
            );
            let places_now = match (by_source, by_destination) {
                (Route::Here(places), Route::Moving { job, from }) => {
                    assert!(phase < CopyPhase::Switched);
                    assert_eq!((job, from), (move_it.job_id, (acme(), channel("c1"))));
                    places
                }
                (Route::MovedTo(to), Route::Here(places)) => {
                    assert!(phase >= CopyPhase::Switched);
                    assert_eq!(to, move_it.destination());
                    places
                }
                other => panic!("{phase}: {other:?}"),
            };
            assert_eq!(&places_now.read.channel_row.place, of(&read), "{phase}");
            let listed = |which: &[bool]| which.iter().map(of).cloned().collect::<Vec<_>>();
            assert_eq!(places(&places_now.write), listed(write), "{phase}");
            assert_eq!(places(&places_now.delete), listed(delete), "{phase}");
            assert_eq!(places_now.are_two(), delete.len() == 2);
            for view in places_now.write.iter().chain(&places_now.delete) {
                let at_source = view.channel_row.place == source;
                let name = if at_source {
                    (acme(), "c1")
                } else {
                    (org.clone(), "c9")
                };
                assert_eq!((&view.org, view.channel.as_str()), (&name.0, name.1));
            }
        }
        bench.registry.release_destination(&move_it).await.unwrap();
        match route(&bench, &org, "c9").await {
            Route::Here(places) => assert_eq!(places.read.channel_row.place, destination),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_route_is_as_old_as_its_oldest_read_and_agrees_whatever_its_age() {
    let bench = Bench::new().await;
    let move_it = request("acme/w1/c1", "acme/w2/c9");
    bench.copied_to(&move_it, CopyPhase::Mirrored).await;
    let first = here(&bench, "c1").await;
    bench.clock.advance(std::time::Duration::from_secs(5));
    let second = here(&bench, "c1").await;
    assert_ne!(first.read_at, second.read_at);
    assert!(first.agree_with(&second));
    let (source, destination) = (second.read.as_ref(), second.write[0].as_ref());
    let mut older = source.clone();
    older.read_at = first.read_at;
    let mixed = Places::in_phase(CopyPhase::Mirrored, older, destination.clone());
    assert_eq!(mixed.read_at, first.read_at);
    bench.advance(&move_it, CopyPhase::Switched).await;
    let third = here(&bench, "c9").await;
    assert!(!first.agree_with(&third));
}

#[tokio::test]
async fn a_copy_that_was_called_off_leaves_the_source_as_it_was() {
    for phase in [CopyPhase::Announced, CopyPhase::Mirrored] {
        let bench = Bench::new().await;
        let before = bench.row(&acme(), "c1").await;
        let move_it = request("acme/w1/c1", "acme/w2/c9");
        bench.copied_to(&move_it, phase).await;
        let called_off = bench.registry.call_off_copy(&move_it).await;
        assert_eq!(called_off.unwrap(), CalledOff::Yes);
        assert_eq!(bench.row(&acme(), "c1").await, before);
        let now = here(&bench, "c1").await;
        assert_eq!(places(&now.delete), [before.place]);
        let gone = bench.registry.route(&acme(), &channel("c9")).await;
        assert!(gone.is_err());
    }
}

/// The id of the source becomes a destination again, with another place. Before
/// that copy has come far enough it leads to where it led before.
#[tokio::test]
async fn i14_there_and_back_a_name_always_leads_to_the_channel() {
    let bench = Bench::new().await;
    let first_place = bench.row(&acme(), "c1").await.place;
    let there = bench.copied(&request("acme/w1/c1", "acme/w2/c9")).await;
    assert_eq!(leads_to(&bench, "c1").await, "acme/w2/c9");
    assert_eq!(here(&bench, "c9").await.read.channel_row.place, there.place);

    let back = request("acme/w2/c9", "acme/w1/c1");
    let row = bench.activate(&back).await;
    for phase in [CopyPhase::Announced, CopyPhase::Mirrored] {
        bench.advance(&back, phase).await;
        assert_eq!(leads_to(&bench, "c1").await, "acme/w2/c9", "{phase}");
        let now = here(&bench, "c9").await;
        assert_eq!(now.read.channel_row.place, there.place);
        assert_eq!(
            places(&now.delete),
            [row.place.clone(), there.place.clone()]
        );
    }
    for phase in [CopyPhase::Switched, CopyPhase::Moved] {
        bench.advance(&back, phase).await;
        assert_eq!(leads_to(&bench, "c9").await, "acme/w1/c1", "{phase}");
        assert_eq!(here(&bench, "c1").await.read.channel_row.place, row.place);
    }
    bench.registry.release_destination(&back).await.unwrap();
    bench.advance(&back, CopyPhase::Closed).await;
    assert_eq!(leads_to(&bench, "c9").await, "acme/w1/c1");
    let now = here(&bench, "c1").await.read.channel_row.clone();
    assert_eq!(now.place, row.place);
    assert!(![&first_place, &there.place].contains(&&now.place));
    assert_eq!(now.places_had, [first_place]);
    assert_eq!(now.outgoing, None);
}

/// The way back is called off: the name leads to where it led.
#[tokio::test]
async fn a_way_back_that_is_called_off_leaves_the_name_as_it_was() {
    let bench = Bench::new().await;
    let there = bench.copied(&request("acme/w1/c1", "acme/w2/c9")).await;
    let back = request("acme/w2/c9", "acme/w1/c1");
    bench.copied_to(&back, CopyPhase::Mirrored).await;
    bench.registry.call_off_copy(&back).await.unwrap();
    assert_eq!(leads_to(&bench, "c1").await, "acme/w2/c9");
    let now = here(&bench, "c9").await;
    assert_eq!(places(&now.delete), [there.place]);
    // And it can be made again.
    bench.copied(&request("acme/w2/c9", "acme/w1/c1")).await;
    assert_eq!(leads_to(&bench, "c9").await, "acme/w1/c1");
}

/// Copied on before the first copy is closed: each name leads to the next.
#[tokio::test]
async fn a_chain_of_copies_leads_from_name_to_name() {
    let bench = Bench::new().await;
    let first = request("acme/w1/c1", "acme/w2/c2");
    bench.copied_to(&first, CopyPhase::Moved).await;
    bench.registry.release_destination(&first).await.unwrap();
    let second = request("acme/w2/c2", "acme/w3/c3");
    let middle = bench.row(&acme(), "c2").await.place;
    let last = bench.copied_to(&second, CopyPhase::Mirrored).await.place;
    assert_eq!(leads_to(&bench, "c1").await, "acme/w2/c2");
    let now = here(&bench, "c2").await;
    assert_eq!(places(&now.write), [last.clone(), middle]);
    bench.advance(&second, CopyPhase::Switched).await;
    assert_eq!(leads_to(&bench, "c1").await, "acme/w2/c2");
    assert_eq!(leads_to(&bench, "c2").await, "acme/w3/c3");
    assert_eq!(here(&bench, "c3").await.read.channel_row.place, last);
    bench.advance(&first, CopyPhase::Closed).await;
    bench.advance(&second, CopyPhase::Closed).await;
    assert_eq!(leads_to(&bench, "c1").await, "acme/w2/c2");
    assert_eq!(leads_to(&bench, "c2").await, "acme/w3/c3");
}
