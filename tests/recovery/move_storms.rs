//! Channels that move while they are written to, with deaths at any instant and
//! a zombie: whatever meets, the ledger is kept.
//!
//! The traffic goes on by the old names. So clients meet each phase of a copy at
//! moments that nobody chose, some late.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use rekeyd::demo::traffic::read_back;
use rekeyd::ids::ChannelId;
use rekeyd::job::{JobState, Mode};
use rekeyd::kms::{ReasonCode, Use};
use rustix::process::Signal;

use crate::holding::{ask, messages, name, request};
use crate::process::Process;
use crate::random_kills::{SEED, between, number};
use crate::rig::{PATIENCE, short_waits};
use crate::site::{Site, Template, recipe};

const WORKERS: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i14_moves_under_traffic_deaths_and_a_rekey_keep_the_ledger() {
    let seed = number(SEED).unwrap_or_else(|| rand::rng().next_u64());
    println!("{SEED}={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let site = Site::new(&Template::new().await, false).await;
    let rig = &site.rig;
    let traffic = site.traffic(random.next_u64()).await;
    traffic.reached(20).await;
    let mut started = 0;
    let mut start = |workers: &mut Vec<Process>| {
        started += 1;
        workers.push(Process::start(rig, &format!("worker-{started}"), None));
    };
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        start(&mut workers);
    }
    // Two of the channels that the traffic writes to: one is copied, and copied
    // on; the other goes to another workspace in its place.
    let mut channels: Vec<ChannelId> = recipe().plan().map(|slice| slice.channel()).collect();
    channels.dedup();
    let first = name(rig, rig.workspace.as_str(), &channels[0]);
    let second = name(rig, rig.workspace.as_str(), &channels[1]);
    let between_them = name(rig, "w2", &ChannelId::new("between").unwrap());
    let end = name(rig, "w3", &ChannelId::new("end").unwrap());
    let old = rig.registry.view(&first.org, &first.channel).await.unwrap();
    let copy = ask(rig, &request(&first, &between_them)).await;
    let in_place = ask(rig, &request(&second, &name(rig, "w9", &second.channel))).await;
    tokio::time::sleep(between(&mut random, 20, 4_000)).await;
    let rekey = rig.enqueue(rig.request(&rig.new, Mode::Reencrypt)).await;
    let lease = short_waits().lease();
    for n in 0..3 {
        if n == 1 {
            let zombie = &workers[random.random_range(0..workers.len())];
            zombie.signal(Signal::STOP);
            tokio::time::sleep(lease + between(&mut random, 50, 400)).await;
            zombie.signal(Signal::CONT);
        }
        tokio::time::sleep(between(&mut random, 20, 2_500)).await;
        let victim = workers.remove(random.random_range(0..workers.len()));
        victim.kill().await;
        start(&mut workers);
    }
    rig.wait_state(copy, JobState::Drained).await;
    let copied_on = ask(rig, &request(&between_them, &end)).await;
    tokio::time::sleep(between(&mut random, 20, 4_000)).await;
    workers.remove(0).kill().await;
    start(&mut workers);
    for job in [in_place, rekey, copied_on] {
        let row = rig.wait_state(job, JobState::Drained).await;
        assert!(row.rewriting.balances(), "I13: {:?}", row.rewriting);
    }
    for worker in workers {
        worker.stop().await;
    }

    let before = traffic.counts().done.values().sum::<u64>();
    tokio::time::timeout(PATIENCE, traffic.reached(before + 30))
        .await
        .expect("traffic goes on after the moves");
    let report = traffic.stop().await.unwrap();
    assert_eq!(report.violations, [], "what live readers saw");
    let left = rig
        .registry
        .view(&rig.org, &between_them.channel)
        .await
        .unwrap();
    for place in [&old, &left] {
        // What has vanished is left to the store's own clean-up.
        let now_s = rig.clock.wall().unix_seconds();
        let mut there = messages(rig, place).await;
        there.retain(|_, sealed| {
            let expiry = sealed.message.expiry;
            expiry.is_none_or(|at| i64::from(at) > now_s)
        });
        assert!(there.is_empty(), "left in an old place: {there:?}");
    }
    // By the names that everything was written under, and without the old CMK.
    rig.ring.disable(&rig.old).unwrap();
    let why = Use::new(ReasonCode::Verify, "read back");
    let found = read_back(&rig.client().await, &site.ledger, &rig.clock, &why, 16).await;
    assert!(found.violations.is_empty(), "{:#?}", found.violations);
    assert_eq!(found.refused, BTreeMap::new(), "all can be read");
    assert!(found.present > 1_000, "{} present", found.present);
}
