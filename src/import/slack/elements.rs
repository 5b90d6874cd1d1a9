//! Takes a JSON array apart into its elements, from a stream, in bounded
//! memory, and hands each one over as the bytes that stand in the file.
//!
//! A parser of JSON would not do. It stops at the first bad element, and to
//! yield an element's own bytes it must buffer it however long it is. This
//! scanner follows strings and brackets only. So an element that is too long is
//! passed over without being kept, and one that is malformed inside its
//! brackets does not take the rest of the file with it. It vouches for nothing
//! inside an element: whoever takes one parses it.

use std::io::{self, Read};

use zeroize::Zeroizing;

const CHUNK_BYTES: usize = 64 << 10;
const BYTE_ORDER_MARK: &[u8] = &[0xef, 0xbb, 0xbf];

/// Buffers for [`Elements`], kept from file to file: they hold message text, so
/// they are wiped at the end, and wiping them for each small file would cost
/// more than reading it.
pub(super) struct Buffers {
    chunk: Zeroizing<Vec<u8>>,
    /// For messages its capacity is the limit, so that it never moves and leaves
    /// a copy behind.
    element: Zeroizing<Vec<u8>>,
    limit: usize,
}

impl Buffers {
    /// Buffers for messages of at most `limit` bytes.
    pub(super) fn for_messages(limit: usize) -> Self {
        let mut buffers = Self::for_entries(limit);
        buffers.element.reserve_exact(limit);
        buffers
    }

    /// Buffers for elements of at most `limit` bytes that are no secret.
    pub(super) fn for_entries(limit: usize) -> Self {
        Self {
            chunk: Zeroizing::new(vec![0; CHUNK_BYTES]),
            element: Zeroizing::new(Vec::new()),
            limit,
        }
    }
}

/// One element of the array.
pub(super) struct Element<'a> {
    /// Its index, from 0.
    pub index: u64,
    /// The byte of the file it starts at.
    pub start: u64,
    /// Its bytes, or `None` if there are more of them than the limit.
    pub body: Option<&'a [u8]>,
}

/// Why the rest of a file cannot be taken apart.
#[derive(Debug)]
pub(super) enum Fault {
    /// At this byte stands something that cannot stand there, or the end.
    Syntax { byte: u64 },
    /// Reading failed at this byte.
    Io { byte: u64 },
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Start,
    /// After `[`: an element or `]`.
    First,
    /// After an element: `,` or `]`.
    After,
    Done,
}

/// The elements of one array, one at a time.
pub(super) struct Elements<'b, R> {
    read: R,
    buffers: &'b mut Buffers,
    /// Half-open range of the chunk that is read but not consumed.
    at: usize,
    end: usize,
    /// The byte of the file at `at`.
    offset: u64,
    index: u64,
    state: State,
}

impl<'b, R: Read> Elements<'b, R> {
    pub(super) fn new(read: R, buffers: &'b mut Buffers) -> Self {
        Self {
            read,
            buffers,
            at: 0,
            end: 0,
            offset: 0,
            index: 0,
            state: State::Start,
        }
    }

    /// The next element; `None` after the last and after a fault. The file is
    /// read to its end before the first `None`, so that a ZIP file's checksum
    /// is compared.
    pub(super) fn next(&mut self) -> Result<Option<Element<'_>>, Fault> {
        match self.advance() {
            Ok(None) => {
                self.state = State::Done;
                Ok(None)
            }
            Ok(Some((start, fits))) => {
                let index = self.index;
                self.index += 1;
                self.state = State::After;
                let body = fits.then_some(self.buffers.element.as_slice());
                Ok(Some(Element { index, start, body }))
            }
            Err(fault) => {
                self.state = State::Done;
                Err(fault)
            }
        }
    }

    /// Fills `buffers.element`; answers where it starts and whether it fits.
    fn advance(&mut self) -> Result<Option<(u64, bool)>, Fault> {
        match self.state {
            State::Done => return Ok(None),
            State::Start => {
                self.skip_byte_order_mark()?;
                self.expect(b'[')?;
                if self.skip_space()? == Some(b']') {
                    return self.close();
                }
            }
            State::First => {}
            State::After => match self.skip_space()? {
                Some(b']') => return self.close(),
                Some(b',') => self.consume(1),
                _ => return Err(self.syntax()),
            },
        }
        self.state = State::First;
        match self.skip_space()? {
            // `[,` and `[1,]` are no arrays.
            None | Some(b',' | b']' | b'}') => Err(self.syntax()),
            Some(_) => {
                let start = self.offset;
                let fits = self.take_element()?;
                Ok(Some((start, fits)))
            }
        }
    }

    /// The closing bracket, after which only space may follow.
    fn close(&mut self) -> Result<Option<(u64, bool)>, Fault> {
        self.consume(1);
        match self.skip_space()? {
            None => Ok(None),
            Some(_) => Err(self.syntax()),
        }
    }

    fn take_element(&mut self) -> Result<bool, Fault> {
        self.buffers.element.clear();
        let mut fits = true;
        let mut bounds = Bounds::default();
        loop {
            if self.peek()?.is_none() {
                return Err(self.syntax());
            }
            let seen = &self.buffers.chunk[self.at..self.end];
            let found = bounds.end_in(seen);
            let taken = found.unwrap_or(seen.len());
            fits = fits && self.buffers.element.len() + taken <= self.buffers.limit;
            if fits {
                self.buffers.element.extend_from_slice(&seen[..taken]);
            }
            self.consume(taken);
            if found.is_some() {
                return Ok(fits);
            }
        }
    }

    fn skip_byte_order_mark(&mut self) -> Result<(), Fault> {
        // A reader may give one byte at a time, so the mark is taken bytewise.
        if self.peek()? == Some(BYTE_ORDER_MARK[0]) {
            for &byte in BYTE_ORDER_MARK {
                if self.peek()? != Some(byte) {
                    return Err(self.syntax());
                }
                self.consume(1);
            }
        }
        Ok(())
    }

    fn expect(&mut self, byte: u8) -> Result<(), Fault> {
        if self.skip_space()? == Some(byte) {
            self.consume(1);
            Ok(())
        } else {
            Err(self.syntax())
        }
    }

    /// The next byte that is no space, not consumed; `None` at the end.
    fn skip_space(&mut self) -> Result<Option<u8>, Fault> {
        loop {
            match self.peek()? {
                Some(b' ' | b'\t' | b'\r' | b'\n') => self.consume(1),
                other => return Ok(other),
            }
        }
    }

    fn peek(&mut self) -> Result<Option<u8>, Fault> {
        while self.at == self.end {
            match self.read.read(&mut self.buffers.chunk) {
                Ok(0) => return Ok(None),
                Ok(n) => (self.at, self.end) = (0, n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Fault::Io { byte: self.offset }),
            }
        }
        Ok(Some(self.buffers.chunk[self.at]))
    }

    fn consume(&mut self, n: usize) {
        self.at += n;
        self.offset += n as u64;
    }

    fn syntax(&self) -> Fault {
        Fault::Syntax { byte: self.offset }
    }
}

/// Finds where an element ends, across chunks.
#[derive(Default)]
struct Bounds {
    depth: u64,
    in_string: bool,
    escaped: bool,
}

impl Bounds {
    /// How many of these bytes still belong to the element, if it ends in them.
    fn end_in(&mut self, bytes: &[u8]) -> Option<usize> {
        for (i, &byte) in bytes.iter().enumerate() {
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => {
                        self.in_string = false;
                        if self.depth == 0 {
                            return Some(i + 1);
                        }
                    }
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' if self.depth > 1 => self.depth -= 1,
                b'}' | b']' if self.depth == 1 => return Some(i + 1),
                b'}' | b']' | b',' | b' ' | b'\t' | b'\r' | b'\n' if self.depth == 0 => {
                    return Some(i);
                }
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gives a few bytes at a time, so that every boundary is met.
    pub(in crate::import::slack) struct Drip<'a>(pub &'a [u8], pub usize);

    impl Read for Drip<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(self.0.len()).min(to.len());
            to[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    /// Elements found (`None`: too large), and the byte of the fault if there is one.
    fn take_apart(bytes: &[u8], step: usize, limit: usize) -> (Vec<Option<Vec<u8>>>, Option<u64>) {
        let mut buffers = Buffers::for_messages(limit);
        let mut elements = Elements::new(Drip(bytes, step), &mut buffers);
        let mut found = Vec::new();
        loop {
            match elements.next() {
                Ok(Some(element)) => {
                    assert_eq!(element.index, found.len() as u64);
                    if let Some(body) = element.body {
                        assert!(bytes[element.start as usize..].starts_with(body));
                    }
                    found.push(element.body.map(<[u8]>::to_vec));
                }
                Ok(None) => return (found, None),
                Err(Fault::Syntax { byte }) => {
                    assert!(matches!(elements.next(), Ok(None)), "a fault is the end");
                    return (found, Some(byte));
                }
                Err(Fault::Io { .. }) => unreachable!("a slice can be read"),
            }
        }
    }

    #[test]
    fn arrays_are_taken_apart_and_faults_placed() {
        for (text, elements, fault) in [
            ("[]", vec![], None),
            (" [ ] ", vec![], None),
            ("\u{feff}[1]", vec!["1"], None),
            (
                "[1 , \"a]\\\"\", {\"b\":[1,{}]},[],null]",
                vec!["1", "\"a]\\\"\"", "{\"b\":[1,{}]}", "[]", "null"],
                None,
            ),
            ("", vec![], Some(0)),
            ("null", vec![], Some(0)),
            ("[", vec![], Some(1)),
            ("[,1]", vec![], Some(1)),
            ("[1,]", vec!["1"], Some(3)),
            ("[1", vec![], Some(2)),
            ("[{}", vec!["{}"], Some(3)),
            ("[{} {}]", vec!["{}"], Some(4)),
            ("[{}]x", vec!["{}"], Some(4)),
            ("[{}}]", vec!["{}"], Some(3)),
            ("\u{fe00}[]", vec![], Some(1)),
        ] {
            let elements: Vec<_> = elements
                .iter()
                .map(|e: &&str| Some(e.as_bytes().to_vec()))
                .collect();
            for step in [1, 2, 3, 64] {
                assert_eq!(
                    take_apart(text.as_bytes(), step, 1000),
                    (elements.clone(), fault),
                    "{text}"
                );
            }
        }
        let (found, fault) = take_apart(b"[{\"a\":\"12345678\"},{},[1,2,3,4,5,6]]", 5, 10);
        assert_eq!(
            (found, fault),
            (vec![None, Some(b"{}".to_vec()), None], None)
        );
    }

    pub(in crate::import::slack) fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::btree_map(any::<String>(), inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    #[test]
    fn an_endless_element_is_passed_over_in_the_memory_of_the_limit() {
        let mut buffers = Buffers::for_messages(1000);
        let kept = (buffers.element.as_ptr(), buffers.element.capacity());
        let text = io::Read::chain(&b"[\""[..], io::repeat(b'x').take(64 << 20));
        let mut elements = Elements::new(text.chain(&b"\",2]"[..]), &mut buffers);
        assert!(matches!(
            elements.next(),
            Ok(Some(Element {
                index: 0,
                body: None,
                ..
            }))
        ));
        let next = elements.next().unwrap().unwrap();
        assert_eq!((next.start, next.body), ((64 << 20) + 4, Some(&b"2"[..])));
        assert!(matches!(elements.next(), Ok(None)));
        assert_eq!((buffers.element.as_ptr(), buffers.element.capacity()), kept);
    }

    proptest! {
        #[test]
        fn any_array_comes_apart_into_its_elements(
            values in prop::collection::vec(json(), 0..8),
            pretty: bool,
            step in 1usize..40,
        ) {
            let text = if pretty {
                serde_json::to_string_pretty(&values).unwrap()
            } else {
                serde_json::to_string(&values).unwrap()
            };
            let (found, fault) = take_apart(text.as_bytes(), step, 1 << 20);
            prop_assert_eq!(fault, None);
            let back: Vec<serde_json::Value> =
                found.iter().map(|e| serde_json::from_slice(e.as_ref().unwrap()).unwrap()).collect();
            prop_assert_eq!(back, values);
        }
    }
}
