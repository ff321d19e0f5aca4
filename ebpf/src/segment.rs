//! The TCP segment in a packet, IPv4 or IPv6: only what the accounts need. Headers are read in place (the kernel has
//! pulled them into the linear part), payload by copy.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use aya_ebpf::programs::SkBuffContext;
use core::ptr::addr_of;

const TCP: u8 = 6;
const TCP_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
/// The least that a TCP packet has: both headers of IPv4, or the header of IPv6.
const HEADERS_MIN: usize = 40;
/// IPv6 extension headers that are skipped: hop-by-hop, routing, destination options.
const EXTENSIONS: [u8; 3] = [0, 43, 60];
const EXTENSIONS_MAX: usize = 2;
const FIN: u8 = 1;
const RST: u8 = 4;

/// One segment.
pub struct Segment {
    /// Port of the sender.
    pub source: u32,
    /// Port of the receiver.
    pub destination: u32,
    /// Sequence number of the first payload byte.
    pub sequence: u32,
    /// Payload bytes; one packet may carry up to 64 kB before it is cut (GSO) or after it was joined (GRO).
    pub payload: u32,
    at: u32,
    flags: u8,
}

impl Segment {
    /// Reads the headers. `None` for everything but TCP.
    #[inline(always)]
    pub fn read(context: &SkBuffContext) -> Option<Self> {
        let packet = Packet::of(context.skb.skb);
        let ip = packet.bytes::<HEADERS_MIN>(0)?;
        let header = match ip[0] >> 4 {
            4 if ip[9] == TCP => usize::from(ip[0] & 15) * 4,
            6 => packet.behind_ipv6(ip[6])?,
            _ => return None,
        };
        let tcp = packet.bytes::<TCP_HEADER>(header)?;
        let at = header as u32 + u32::from(tcp[12] >> 4) * 4;
        Some(Self {
            source: u32::from(u16::from_be_bytes([tcp[0], tcp[1]])),
            destination: u32::from(u16::from_be_bytes([tcp[2], tcp[3]])),
            sequence: u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]),
            payload: packet.length.saturating_sub(at),
            at,
            flags: tcp[13],
        })
    }

    /// Whether it carries nothing an account needs.
    #[inline(always)]
    pub fn is_bare(&self) -> bool {
        self.payload == 0 && self.flags & (FIN | RST) == 0
    }

    /// Whether the sender says it will send no more.
    #[inline(always)]
    pub fn ends(&self) -> bool {
        self.flags & FIN != 0
    }

    /// Whether the sender drops the connection.
    #[inline(always)]
    pub fn resets(&self) -> bool {
        self.flags & RST != 0
    }

    /// Whether payload goes beyond `end`, which it then moves. `known` says whether `end` counts yet.
    #[inline(always)]
    pub fn advances(&self, end: &mut u32, known: bool) -> bool {
        let own_end = self.sequence.wrapping_add(self.payload);
        if self.payload == 0 || known && own_end.wrapping_sub(*end) as i32 <= 0 {
            return false;
        }
        *end = own_end;
        true
    }

    /// `N` payload bytes from `offset` on, when there are so many.
    #[inline(always)]
    pub fn payload_bytes<const N: usize>(&self, context: &SkBuffContext, offset: u32) -> Option<[u8; N]> {
        if self.payload < offset + N as u32 {
            return None;
        }
        let mut bytes = [0u8; N];
        let to = bytes.as_mut_ptr().cast();
        // SAFETY: `to` has room for N bytes; the helper checks the packet's bounds itself.
        let failed = unsafe { bpf_skb_load_bytes(context.skb.skb.cast(), self.at + offset, to, N as u32) };
        if failed == 0 { Some(bytes) } else { None }
    }
}

/// The linear part of a packet, from the IP header on.
struct Packet {
    start: usize,
    end: usize,
    length: u32,
}

impl Packet {
    #[inline(always)]
    fn of(skb: *mut __sk_buff) -> Self {
        // SAFETY: the kernel hands in a valid context; volatile, because the verifier knows it by whole fields only.
        unsafe {
            Self {
                start: addr_of!((*skb).data).read_volatile() as usize,
                end: addr_of!((*skb).data_end).read_volatile() as usize,
                length: addr_of!((*skb).len).read_volatile(),
            }
        }
    }

    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        let from = self.start + offset;
        if from + N > self.end {
            return None;
        }
        // SAFETY: `from..from + N` lies within the linear part, which does not move while the program runs.
        Some(unsafe { &*(from as *const [u8; N]) })
    }

    /// Offset of the TCP header behind an IPv6 header and at most [`EXTENSIONS_MAX`] extension headers.
    #[inline(always)]
    fn behind_ipv6(&self, first: u8) -> Option<usize> {
        let mut next = first;
        let mut offset = IPV6_HEADER;
        for _ in 0..EXTENSIONS_MAX {
            if next != EXTENSIONS[0] && next != EXTENSIONS[1] && next != EXTENSIONS[2] {
                break;
            }
            let extension = self.bytes::<2>(offset)?;
            next = extension[0];
            offset += 8 + usize::from(extension[1]) * 8;
        }
        if next == TCP { Some(offset) } else { None }
    }
}
