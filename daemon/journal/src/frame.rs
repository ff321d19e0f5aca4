//! One frame as bytes, and the three bodies a frame can have. All numbers are big-endian.
//!
//! `len u32 | crc32c u32 over the rest | kind u8 | flags u8 = 0 | reserved u16 = 0 | seq u64 | time_ns i64 | body`

use crate::error::Flaw;
use crate::tree::Hash;

/// Longest body of a record: 1 MiB.
pub const MAX_BODY_BYTES: usize = 1 << 20;
/// Longest batch on disk, frame heads included, trailer not: 8 MiB.
pub const MAX_BATCH_BYTES: usize = 8 << 20;

/// Length of a frame before its body.
pub(crate) const HEAD_BYTES: usize = 28;
/// Length of a batch trailer.
pub(crate) const TRAILER_BYTES: usize = HEAD_BYTES + 8 + 2 * Hash::BYTES;
/// Length of a seal.
pub(crate) const SEAL_BYTES: usize = HEAD_BYTES + 8 + 2 * Hash::BYTES;

const CRC_COVERS_FROM: usize = 8;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A record; `seq` is its number.
    Record = 1,
    /// The end of a batch; `seq` is the number of records before it, in the whole log.
    Trailer = 2,
    /// The end of a segment; `seq` as in a trailer.
    Seal = 3,
}

/// The fields before the body, checked for everything but the checksum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    pub(crate) seq: u64,
    pub(crate) time_ns: i64,
    pub(crate) body_bytes: usize,
    crc: u32,
}

impl Head {
    /// `None` when these bytes do not begin with a possible head.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Head> {
        let mut fields = Fields(bytes);
        let body_bytes = u32::from_be_bytes(fields.take()?) as usize;
        let crc = u32::from_be_bytes(fields.take()?);
        let kind = match fields.take()? {
            [1, 0, 0, 0] => Kind::Record,
            [2, 0, 0, 0] => Kind::Trailer,
            [3, 0, 0, 0] => Kind::Seal,
            _ => return None,
        };
        let seq = u64::from_be_bytes(fields.take()?);
        let time_ns = i64::from_be_bytes(fields.take()?);
        (body_bytes <= MAX_BODY_BYTES).then_some(Head { kind, seq, time_ns, body_bytes, crc })
    }

    /// Length of the whole frame.
    pub(crate) fn frame_bytes(&self) -> usize {
        HEAD_BYTES + self.body_bytes
    }
}

/// A whole frame whose checksum holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) head: Head,
    bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame that these bytes begin with; `None` when there is no valid one.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Frame<'a>> {
        let head = Head::parse(bytes)?;
        let bytes = bytes.get(..head.frame_bytes())?;
        (crc32c::crc32c(&bytes[CRC_COVERS_FROM..]) == head.crc).then_some(Frame { head, bytes })
    }

    pub(crate) fn body(&self) -> &'a [u8] {
        &self.bytes[HEAD_BYTES..]
    }

    /// SHA-256 of the frame's bytes: how a trailer names the trailer before it.
    pub(crate) fn hash(&self) -> Hash {
        Hash::of(self.bytes)
    }
}

/// Appends a frame. The caller has checked the body against [`MAX_BODY_BYTES`].
pub(crate) fn encode(kind: Kind, (seq, time_ns): (u64, i64), body: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(body.len()).expect("a body is at most 1 MiB");
    let start = out.len();
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&[kind as u8, 0, 0, 0]);
    out.extend_from_slice(&seq.to_be_bytes());
    out.extend_from_slice(&time_ns.to_be_bytes());
    out.extend_from_slice(body);
    let crc = crc32c::crc32c(&out[start + CRC_COVERS_FROM..]);
    out[start + 4..start + CRC_COVERS_FROM].copy_from_slice(&crc.to_be_bytes());
}

/// The records in frames that [`encode`] has made, with their bodies.
pub(crate) fn records(mut frames: &[u8]) -> impl Iterator<Item = (Head, &[u8])> {
    std::iter::from_fn(move || {
        let head = Head::parse(frames)?;
        let (frame, rest) = frames.split_at_checked(head.frame_bytes())?;
        frames = rest;
        Some((head, &frame[HEAD_BYTES..]))
    })
}

/// Body of the frame that commits a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    /// First record of the batch; the last one is the frame's `seq` less one.
    pub(crate) first_seq: u64,
    /// Root of the tree after the batch.
    pub(crate) root: Hash,
    /// Hash of the trailer frame before it, in the whole log.
    pub(crate) previous: Hash,
}

impl Trailer {
    pub(crate) fn to_body(self) -> Vec<u8> {
        [&self.first_seq.to_be_bytes()[..], self.root.as_bytes(), self.previous.as_bytes()].concat()
    }

    pub(crate) fn parse(body: &[u8]) -> Result<Trailer, Flaw> {
        let (first_seq, root, previous) = number_and_hashes(body).ok_or(Flaw::Batch)?;
        Ok(Trailer { first_seq, root, previous })
    }
}

/// Body of the frame that ends a segment. A signed checkpoint will follow these fields in a later format version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seal {
    /// Records in this segment.
    pub(crate) records: u64,
    /// Root of the tree after the segment.
    pub(crate) root: Hash,
    /// Hash of the segment's last trailer frame.
    pub(crate) last_trailer: Hash,
}

impl Seal {
    pub(crate) fn to_body(self) -> Vec<u8> {
        [&self.records.to_be_bytes()[..], self.root.as_bytes(), self.last_trailer.as_bytes()].concat()
    }

    pub(crate) fn parse(body: &[u8]) -> Result<Seal, Flaw> {
        let (records, root, last_trailer) = number_and_hashes(body).ok_or(Flaw::Seal)?;
        Ok(Seal { records, root, last_trailer })
    }
}

fn number_and_hashes(body: &[u8]) -> Option<(u64, Hash, Hash)> {
    let mut fields = Fields(body);
    let number = u64::from_be_bytes(fields.take()?);
    let first = Hash::from(fields.take::<32>()?);
    let second = Hash::from(fields.take::<32>()?);
    fields.0.is_empty().then_some((number, first, second))
}

/// Takes fixed-size fields off the front of some bytes.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl Fields<'_> {
    pub(crate) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_frame_reads_back_and_any_flipped_bit_makes_it_invalid(
            seq: u64, time_ns: i64, body in prop::collection::vec(any::<u8>(), 0..80), bit: prop::sample::Index,
        ) {
            let mut bytes = Vec::new();
            encode(Kind::Record, (seq, time_ns), &body, &mut bytes);
            let frame = Frame::parse(&bytes).unwrap();
            prop_assert_eq!((frame.head.kind, frame.head.seq, frame.head.time_ns), (Kind::Record, seq, time_ns));
            prop_assert_eq!(frame.body(), &body[..]);
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Frame::parse(&bytes).is_none());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Frame::parse(&bytes);
            let _ = Trailer::parse(&bytes);
            let _ = Seal::parse(&bytes);
        }
    }

    #[test]
    fn zeros_are_no_frame() {
        assert!(Frame::parse(&[0; 64]).is_none());
    }

    #[test]
    fn trailer_and_seal_have_the_lengths_the_format_states() {
        let trailer = Trailer { first_seq: 3, root: Hash::of(b"a"), previous: Hash::of(b"b") };
        let seal = Seal { records: 3, root: Hash::of(b"a"), last_trailer: Hash::of(b"b") };
        assert_eq!(trailer.to_body().len() + HEAD_BYTES, TRAILER_BYTES);
        assert_eq!(seal.to_body().len() + HEAD_BYTES, SEAL_BYTES);
        assert_eq!(Trailer::parse(&trailer.to_body()), Ok(trailer));
        assert_eq!(Seal::parse(&seal.to_body()), Ok(seal));
    }
}
