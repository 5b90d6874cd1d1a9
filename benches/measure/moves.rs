//! A move of the channel with the most slices against the floor of the same
//! rows. A copy has three requests for a batch where the floor has two: it reads
//! the source, writes the destination, and looks at the destination again.

use std::collections::BTreeMap;
use std::time::Duration;

use rekeyd::ids::{ChannelId, JobId, WorkspaceId};
use rekeyd::job::{JobMessage, JobState, MoveFrom, MoveRequest, MoveTo, SliceId};
use rekeyd::registry::CopyPhase;

use super::{CpuSpan, Options, Worker, floor, slices_of};
use crate::rig::Rig;

pub(super) async fn measure(rig: &Rig, options: &Options) {
    let channel = largest_channel(&slices_of(rig, None).await);
    let slices = slices_of(rig, Some(channel.clone())).await;
    let first = floor(rig, &slices).await;
    let second = floor(rig, &slices).await;
    let floor_s = (first + second) / 2.0;

    rig.ring.set_latency_ms(options.latency_ms).unwrap();
    let mut worker = Worker::start(rig, options);
    let request = MoveRequest {
        job_id: JobId::random(),
        org: rig.org.clone(),
        from: MoveFrom {
            workspace: rig.workspace.clone(),
            channel,
        },
        to: MoveTo {
            org: None,
            workspace: WorkspaceId::new("elsewhere").unwrap(),
            channel: ChannelId::new("moved").unwrap(),
        },
        requested_by: "bench".to_owned(),
        reason: String::new(),
        cause: None,
        not_before: None,
        not_after: None,
        window: None,
        priority: None,
        plan: None,
    };
    let job = request.job_id;
    let message = JobMessage::Move(request).to_json();
    rig.queue.send(&message).await.unwrap();
    let mut cpu = CpuSpan::default();
    let done = loop {
        let row = rig.book.get(&rig.org, job).await.unwrap();
        worker.look();
        let pid = worker.child.id();
        match row {
            Some(found) if found.row.state == JobState::Drained => break found.row,
            Some(found) if found.row.state == JobState::Blocked => panic!("{}", found.row.why),
            Some(found) => {
                let phase = found.row.copy.as_ref().map(|copy| copy.phase);
                match (found.row.state, phase) {
                    (JobState::Rewriting, Some(CopyPhase::Mirrored)) => {
                        cpu.look(JobState::Rewriting, pid);
                    }
                    (JobState::Settling, Some(CopyPhase::Switched)) => {
                        cpu.look(JobState::Verifying, pid);
                    }
                    _ => {}
                }
            }
            None => {}
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    worker.look();
    // The time of the first copy: from the end of the settle of `mirrored` to
    // the beginning of that of `switched`.
    let history = rig.book.history(&rig.org, job).await.unwrap();
    let copied_s = history
        .windows(2)
        .filter(|pair| {
            pair[0].to == JobState::Rewriting && pair[1].why.starts_with("phase switched")
        })
        .map(|pair| (pair[1].at_ms - pair[0].at_ms) as f64 / 1000.0)
        .sum::<f64>();
    let rows = done.proof.scanned;
    println!(
        "moved    {rows} rows in {} slices, {:.1} rows a slice",
        slices.len(),
        rows as f64 / slices.len() as f64
    );
    println!(
        "floor    {floor_s:>8.2} s  {:>9.0} rows/s   (two passes: {first:.2} s, {second:.2} s)",
        rows as f64 / floor_s
    );
    println!(
        "copy     {copied_s:>8.2} s  {:>9.0} rows/s   ratio {:.2}",
        rows as f64 / copied_s,
        floor_s / copied_s
    );
    println!(
        "KMS      {:.2} calls a slice in the whole job",
        done.effort.kms_calls as f64 / slices.len() as f64
    );
    println!(
        "CPU      {:.2} s in the copy: {:.1} µs a row",
        cpu.seconds(),
        cpu.seconds() * 1e6 / rows as f64
    );
    println!(
        "memory   {:.0} MB at most in the worker",
        worker.peak_kib as f64 / 1024.0
    );
}

fn largest_channel(slices: &[SliceId]) -> ChannelId {
    let mut count: BTreeMap<&ChannelId, usize> = BTreeMap::new();
    for slice in slices {
        *count.entry(&slice.channel).or_default() += 1;
    }
    let largest = count.into_iter().max_by_key(|(_, n)| *n);
    largest.expect("something was filled in").0.clone()
}
