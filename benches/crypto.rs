//! What the cryptography costs: one cell, one key, one slice.
//!
//! `cargo bench --bench crypto`. No I/O and no KMS: these numbers are the part of
//! a rekey that a faster store or KMS would not take away.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rekeyd::crypto::{CellKey, NonceSource, cell};
use rekeyd::epoch::Epoch;
use rekeyd::ids::{ChannelId, OrgId, RecordId};
use rekeyd::kms::Dek;
use rekeyd::scope::{Locus, Scope};
use zeroize::Zeroizing;

const OLD: Epoch = Epoch::FIRST;

fn dek(n: u8) -> Dek {
    Dek::new(Zeroizing::new([n; 32]))
}

struct Site {
    org: OrgId,
    channel: ChannelId,
    scope: Scope,
}

impl Site {
    fn new() -> Self {
        let org = OrgId::new("acme").expect("a valid id");
        let channel = ChannelId::new("C024BE91L").expect("a valid id");
        let scope = Scope::Message {
            org: org.clone(),
            workspace: "T024BE7LD".parse().expect("a valid id"),
            channel: channel.clone(),
            hour: "2019-02-13T17".parse().expect("a valid hour"),
        };
        Self {
            org,
            channel,
            scope,
        }
    }

    fn locus<'a>(&'a self, record: &'a RecordId) -> Locus<'a> {
        Locus::Message {
            org: &self.org,
            channel: &self.channel,
            record,
        }
    }
}

fn record(n: usize) -> RecordId {
    RecordId::new(format!("1550077323.{n:06}")).expect("within 256 bytes")
}

fn cells(c: &mut Criterion) {
    let site = Site::new();
    let key = CellKey::derive(dek(1), &site.scope);
    let record = record(0);
    let locus = site.locus(&record);
    let mut nonces = NonceSource::new();
    for bytes in [128, 512, 4096] {
        let mut group = c.benchmark_group(format!("cell/{bytes}"));
        group.throughput(Throughput::Bytes(bytes as u64));
        let text = vec![b'x'; bytes];
        group.bench_function("seal", |b| {
            b.iter(|| cell::seal(&key, OLD, None, &nonces.next(), &locus, black_box(&text)));
        });
        let sealed =
            cell::seal(&key, OLD, None, &nonces.next(), &locus, &text).expect("it can be sealed");
        group.bench_function("open", |b| {
            b.iter(|| cell::open(&key, &locus, black_box(&sealed)));
        });
    }
}

fn keys(c: &mut Criterion) {
    let site = Site::new();
    c.bench_function("key/derive", |b| {
        b.iter_batched(
            || dek(1),
            |dek| CellKey::derive(dek, &site.scope),
            BatchSize::SmallInput,
        );
    });
    c.bench_function("key/nonce_source", |b| b.iter(NonceSource::new));
}

/// All that a rekey computes for one slice of messages of 300 bytes: two keys,
/// every cell opened, sealed, and the new one opened and compared (I9).
fn slices(c: &mut Criterion) {
    let site = Site::new();
    let newer = OLD.next().expect("far from the last epoch");
    let mut group = c.benchmark_group("slice");
    for messages in [6, 200] {
        let old = CellKey::derive(dek(1), &site.scope);
        let mut nonces = NonceSource::new();
        let stored: Vec<_> = (0..messages)
            .map(|n| {
                let record = record(n);
                let locus = site.locus(&record);
                let sealed = cell::seal(&old, OLD, None, &nonces.next(), &locus, &[b'x'; 300])
                    .expect("it can be sealed");
                (record, sealed)
            })
            .collect();
        group.throughput(Throughput::Elements(messages as u64));
        group.bench_function(messages.to_string(), |b| {
            b.iter(|| {
                let old = CellKey::derive(dek(1), &site.scope);
                let new = CellKey::derive(dek(2), &site.scope);
                new.reserve_seals(messages as u32)
                    .expect("far below the limit");
                let mut nonces = NonceSource::new();
                for (record, sealed) in &stored {
                    let locus = site.locus(record);
                    let text = cell::open(&old, &locus, sealed).expect("it was sealed so");
                    let nonce = nonces.next();
                    let again = cell::seal(&new, newer, None, &nonce, &locus, text.as_bytes())
                        .expect("it can be sealed");
                    let check = cell::open(&new, &locus, &again).expect("it was sealed so");
                    assert!(check == text);
                    black_box(again);
                }
            });
        });
    }
}

criterion_group!(benches, cells, keys, slices);
criterion_main!(benches);
