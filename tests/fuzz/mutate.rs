//! Spoils inputs, from a seed. It knows nothing of the formats but that some of
//! them are JSON, where whole fields can be taken out, doubled or exchanged.

use rand::rngs::StdRng;
use rand::{Rng, RngExt};
use serde_json::Value;

/// Longest mutation, in bytes.
const LONGEST: usize = 16 << 10;

/// Bytes and words at which parsers tend to fail.
const WORDS: [&[u8]; 24] = [
    b"\0",
    b"\x01",
    b"\x7f",
    b"\x80",
    b"\xff\xff",
    b"\0\0",
    b"\xff\xff\xff\xff",
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"-1",
    b"18446744073709551615",
    b"1e999",
    b"\xc3\xa9",
    b"\xef\xbb\xbf",
    b"\\u0000",
    b"\n== ",
    b"\r\n",
];

/// An input made from one or two of these.
pub fn one(seeds: &[&[u8]], random: &mut StdRng) -> Vec<u8> {
    let mut input = pick(seeds, random).to_vec();
    if random.random_bool(0.4)
        && let Some(changed) = change_json(&input, random)
    {
        input = changed;
        // Often nothing more: a change below the JSON is mostly no JSON any more.
        if random.random_bool(0.7) {
            return input;
        }
    }
    for _ in 0..random.random_range(1..4) {
        change_bytes(&mut input, seeds, random);
    }
    input.truncate(LONGEST);
    input
}

fn pick<'a>(seeds: &[&'a [u8]], random: &mut StdRng) -> &'a [u8] {
    seeds[random.random_range(0..seeds.len())]
}

/// A half-open range within `length`, mostly short.
fn range(length: usize, random: &mut StdRng) -> std::ops::Range<usize> {
    let start = random.random_range(0..=length);
    let longest = match random.random_range(0..4) {
        0 => length - start,
        _ => 16.min(length - start),
    };
    start..start + random.random_range(0..=longest)
}

fn change_bytes(input: &mut Vec<u8>, seeds: &[&[u8]], random: &mut StdRng) {
    let at = random.random_range(0..=input.len());
    match random.random_range(0..8) {
        0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
        1 if at < input.len() => input[at] = random.next_u32() as u8,
        2 => input.truncate(at),
        3 => {
            let cut = range(input.len(), random);
            input.drain(cut);
        }
        4 => {
            let again = input[range(input.len(), random)].to_vec();
            input.splice(at..at, again);
        }
        5 => {
            let word = WORDS[random.random_range(0..WORDS.len())];
            input.splice(at..at, word.iter().copied());
        }
        6 => {
            let word = WORDS[random.random_range(0..WORDS.len())];
            let end = (at + word.len()).min(input.len());
            input.splice(at..end, word.iter().copied());
        }
        _ => {
            // The end of another.
            let other = pick(seeds, random);
            let from = random.random_range(0..=other.len());
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
    }
}

/// Changes one value of a JSON object: another value in its place, no value,
/// the value of another field, or the value wrapped.
fn change_json(input: &[u8], random: &mut StdRng) -> Option<Vec<u8>> {
    let mut root: Value = serde_json::from_slice(input).ok()?;
    let mut at = &mut root;
    // Walks down a random way and stops at each step with some chance.
    loop {
        let deeper = match &*at {
            Value::Object(fields) => !fields.is_empty(),
            Value::Array(values) => !values.is_empty(),
            _ => false,
        };
        if !deeper || random.random_bool(0.2) {
            break;
        }
        at = match at {
            Value::Object(fields) => {
                let n = random.random_range(0..fields.len());
                if random.random_bool(0.1) {
                    let name = fields.keys().nth(n)?.clone();
                    let value = fields.remove(&name)?;
                    if random.random_bool(0.5) {
                        fields.insert(format!("{name}s"), value);
                    }
                    return Some(root.to_string().into_bytes());
                }
                fields.values_mut().nth(n)?
            }
            Value::Array(values) => {
                let n = random.random_range(0..values.len());
                &mut values[n]
            }
            _ => return None,
        };
    }
    *at = another(at, random);
    Some(root.to_string().into_bytes())
}

fn another(value: &Value, random: &mut StdRng) -> Value {
    match random.random_range(0..14) {
        0 => Value::Null,
        1 => true.into(),
        2 => 0.into(),
        3 => u64::MAX.into(),
        4 => (-1).into(),
        5 => Value::from(1.5),
        6 => "".into(),
        7 => "x".repeat(random.random_range(1..2000)).into(),
        8 => Value::Array(vec![value.clone()]),
        9 => Value::Array(match value {
            // The same without names: a struct in the order of its fields.
            Value::Object(fields) => fields.values().cloned().collect(),
            other => vec![other.clone(), other.clone()],
        }),
        10 => match value.as_str() {
            // As serde takes the variant of an enum as well.
            Some(word) => Value::Object([(word.to_owned(), Value::Null)].into_iter().collect()),
            None => Value::Object(serde_json::Map::new()),
        },
        11 => match value.as_str() {
            Some(text) => text.to_uppercase().into(),
            None => value.to_string().into(),
        },
        12 => match value.as_u64() {
            Some(n) => n.wrapping_add(1).into(),
            None => format!("{}\u{e9}", value.as_str().unwrap_or_default()).into(),
        },
        _ => u64::from(random.next_u32()).into(),
    }
}
