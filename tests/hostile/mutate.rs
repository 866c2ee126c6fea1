//! Samples with a few things changed, which get further than noise.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// What breaks things in one place or another.
const ODD: [&[u8]; 28] = [
    b"",
    b"\0",
    b"\xff",
    b"\xc3",
    b"\xef\xbb\xbf",
    b"\r\n",
    b"\"",
    b"\\",
    b"\\ud800",
    b"{",
    b"}",
    b"[",
    b"${",
    b"%{",
    b"<<EOT\n",
    b"/*",
    b"0",
    b"-1",
    b"1e1000",
    b"9007199254740992",
    b"18446744073709551615",
    b"18446744073709551616",
    b"-9223372036854775808",
    b"null",
    b"true",
    b"[]",
    b"&a *a",
    b"\xdf\xff\xff\xff\xff",
];

#[derive(Debug, Clone)]
enum Change {
    /// A bit is another one.
    Flip(Index, u8),
    /// It ends there.
    Cut(Index),
    /// A part is missing.
    Drop(Index, Index),
    /// A part comes so many times.
    Repeat(Index, Index, usize),
    /// Something odd stands there.
    Insert(Index, &'static [u8]),
    /// Something odd stands in the place of the number or word there.
    Replace(Index, &'static [u8]),
}

fn change() -> impl Strategy<Value = Change> {
    let at = || any::<Index>();
    prop_oneof![
        (at(), 0_u8..8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        at().prop_map(Change::Cut),
        (at(), at()).prop_map(|(from, to)| Change::Drop(from, to)),
        (at(), at(), select(&[2_usize, 10, 300, 5000][..]))
            .prop_map(|(from, to, times)| Change::Repeat(from, to, times)),
        (at(), select(&ODD[..])).prop_map(|(at, odd)| Change::Insert(at, odd)),
        (at(), select(&ODD[..])).prop_map(|(at, odd)| Change::Replace(at, odd)),
    ]
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let at = |index: &Index| index.index(bytes.len() + 1);
        let range = |from: &Index, to: &Index| {
            let (from, to) = (at(from), at(to));
            // Short ones reach more of the rest.
            from.min(to)..from.max(to).min(from.min(to) + 24)
        };
        match self {
            Self::Flip(index, bit) => {
                let at = at(index);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
            Self::Cut(index) => bytes.truncate(at(index)),
            Self::Drop(from, to) => drop(bytes.drain(range(from, to))),
            Self::Repeat(from, to, times) => {
                let range = range(from, to);
                let more = bytes[range.clone()].repeat(*times);
                bytes.splice(range, more);
            }
            Self::Insert(index, odd) => {
                let at = at(index);
                bytes.splice(at..at, odd.iter().copied());
            }
            Self::Replace(index, odd) => {
                let at = at(index);
                let is_word = |byte: &u8| byte.is_ascii_alphanumeric();
                let begin =
                    bytes[..at].iter().rposition(|byte| !is_word(byte)).map_or(0, |it| it + 1);
                let length = bytes[begin..].iter().position(|byte| !is_word(byte));
                let end = length.map_or(bytes.len(), |length| begin + length);
                bytes.splice(begin..end, odd.iter().copied());
            }
        }
    }
}

/// Mostly one of the samples with something changed, sometimes noise.
pub(crate) fn input(samples: &'static [&'static [u8]]) -> impl Strategy<Value = Vec<u8>> {
    let changed = (select(samples), vec(change(), 0..6)).prop_map(|(sample, changes)| {
        let mut bytes = sample.to_vec();
        for change in changes {
            change.apply(&mut bytes);
            // A few repeats on top of each other would be gigabytes.
            bytes.truncate(1 << 20);
        }
        bytes
    });
    prop_oneof![6 => changed, 1 => vec(any::<u8>(), 0..200)]
}
