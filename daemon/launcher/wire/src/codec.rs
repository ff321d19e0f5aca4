//! The bytes of a message: a kind, then its fields, little-endian, then zeros to [`MESSAGE_SIZE`]. Decoding is strict:
//! every byte that a kind does not use must be zero, so each message has one encoding.

use crate::{
    Cell, Class, DETAIL_MAX, DevicePath, Enforcement, Failure, MESSAGE_SIZE, Profile, Reply, Request, SLOTS,
    Tenant, TenantName, WorkerState, detail, detail_text,
};

/// Why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Another length than [`MESSAGE_SIZE`].
    #[error("message of {0} bytes instead of {MESSAGE_SIZE}")]
    Size(usize),
    /// The first field names no message of the list.
    #[error("unknown message kind {0}")]
    Kind(u32),
    /// A field holds a value that it cannot have.
    #[error("field `{0}` out of range")]
    Field(&'static str),
    /// A byte that the message does not use is not zero.
    #[error("trailing bytes are not zero")]
    Trailing,
}

impl Request {
    /// The bytes of this request.
    pub fn encode(&self) -> [u8; MESSAGE_SIZE] {
        let mut out = Writer::new();
        match *self {
            Self::Hello { version } => out.u32(1).u32(version),
            Self::CreateCell { generation, profile } => {
                let Profile { class, memory_bytes, pids_max, cpus, cpu_thousandths, tenant } = profile;
                out.u32(2).u32(generation).u64(memory_bytes).u32(pids_max).u64(cpus).u32(class as u32);
                out.u32(cpu_thousandths).u32(tenant)
            }
            Self::StartWorker { generation } => out.u32(3).u32(generation),
            Self::Adopt { generation } => out.u32(4).u32(generation),
            Self::KillWorker { generation } => out.u32(5).u32(generation),
            Self::DestroyCell { generation } => out.u32(6).u32(generation),
            Self::CellAt { index } => out.u32(7).u32(index),
            Self::Shutdown => out.u32(8),
            Self::StartRouter => out.u32(9),
            Self::Enforcement => out.u32(10),
            Self::SwapModel { generation } => out.u32(11).u32(generation),
            Self::GrantDevice { generation, path } => out.u32(12).u32(generation).take(path.bytes()),
            Self::SetTenant(tenant) => {
                let Tenant { uid_base, memory_bytes, pids_max, cpu_thousandths, cells_max, name } = tenant;
                out.u32(13).u32(uid_base).u64(memory_bytes).u32(pids_max).u32(cpu_thousandths);
                out.u32(cells_max).take(name.bytes())
            }
            Self::Background { generation, milliseconds } => out.u32(14).u32(generation).u32(milliseconds),
        };
        out.bytes
    }

    /// The request in these bytes.
    ///
    /// # Errors
    /// [`WireError`]; nothing but the exact output of [`Request::encode`] is taken.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut fields = Reader::new(bytes)?;
        let request = match fields.u32() {
            1 => Self::Hello { version: fields.u32() },
            2 => {
                let (generation, memory_bytes, pids_max) = (fields.u32(), fields.u64(), fields.u32());
                let (cpus, class) = (fields.u64(), fields.class()?);
                let (cpu_thousandths, tenant) = (fields.u32(), fields.u32());
                let profile = Profile { class, memory_bytes, pids_max, cpus, cpu_thousandths, tenant };
                Self::CreateCell { generation, profile }
            }
            3 => Self::StartWorker { generation: fields.u32() },
            4 => Self::Adopt { generation: fields.u32() },
            5 => Self::KillWorker { generation: fields.u32() },
            6 => Self::DestroyCell { generation: fields.u32() },
            7 => Self::CellAt { index: fields.u32() },
            8 => Self::Shutdown,
            9 => Self::StartRouter,
            10 => Self::Enforcement,
            11 => Self::SwapModel { generation: fields.u32() },
            12 => Self::GrantDevice { generation: fields.u32(), path: DevicePath::read(fields.take())? },
            13 => Self::SetTenant(Tenant {
                uid_base: fields.u32(),
                memory_bytes: fields.u64(),
                pids_max: fields.u32(),
                cpu_thousandths: fields.u32(),
                cells_max: fields.u32(),
                name: TenantName::read(fields.take())?,
            }),
            14 => Self::Background { generation: fields.u32(), milliseconds: fields.u32() },
            kind => return Err(WireError::Kind(kind)),
        };
        fields.end()?;
        Ok(request)
    }
}

impl Reply {
    /// A failure with its text cut to size.
    pub fn failed(failure: Failure, errno: i32, text: &str) -> Self {
        Self::Failed { failure, errno, detail: detail(text) }
    }

    /// The bytes of this reply.
    pub fn encode(&self) -> [u8; MESSAGE_SIZE] {
        let mut out = Writer::new();
        match self {
            Self::Done => out.u32(1),
            Self::Cell(cell) => out.u32(2).cell(cell),
            Self::Started { cell, pid, enforcement } => {
                out.u32(3).cell(cell).u32(*pid).u32(enforcement.landlock).u32(enforcement.shortfall)
            }
            Self::Enforcement(Enforcement { landlock, shortfall }) => {
                out.u32(5).u32(*landlock).u32(*shortfall)
            }
            Self::Failed { failure, errno, detail } => {
                out.u32(4).u32(*failure as u32).take(&errno.to_le_bytes()).take(detail)
            }
        };
        out.bytes
    }

    /// The reply in these bytes.
    ///
    /// # Errors
    /// [`WireError`]; nothing but the exact output of [`Reply::encode`] is taken.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut fields = Reader::new(bytes)?;
        let reply = match fields.u32() {
            1 => Self::Done,
            2 => Self::Cell(fields.cell()?),
            3 => Self::Started { cell: fields.cell()?, pid: fields.u32(), enforcement: fields.enforcement() },
            5 => Self::Enforcement(fields.enforcement()),
            4 => {
                let failure = fields.failure()?;
                let errno = i32::from_le_bytes(fields.take());
                let text: [u8; DETAIL_MAX] = fields.take();
                if detail(detail_text(&text)) != text {
                    return Err(WireError::Field("detail"));
                }
                Self::Failed { failure, errno, detail: text }
            }
            kind => return Err(WireError::Kind(kind)),
        };
        fields.end()?;
        Ok(reply)
    }
}

struct Writer {
    bytes: [u8; MESSAGE_SIZE],
    at: usize,
}

impl Writer {
    fn new() -> Self {
        Self { bytes: [0; MESSAGE_SIZE], at: 0 }
    }

    fn take(&mut self, field: &[u8]) -> &mut Self {
        self.bytes[self.at..self.at + field.len()].copy_from_slice(field);
        self.at += field.len();
        self
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.take(&value.to_le_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.take(&value.to_le_bytes())
    }

    fn cell(&mut self, cell: &Cell) -> &mut Self {
        let (state, value) = match cell.worker {
            WorkerState::None => (0, 0),
            WorkerState::Running => (1, 0),
            WorkerState::Exited(code) => (2, code),
            WorkerState::Killed(signal) => (3, signal),
        };
        self.u32(cell.generation).u32(cell.slot).u32(state).u32(u32::from(value));
        self.u32(cell.class as u32).u64(cell.cpus)
    }
}

/// Fields of a message of the right size; no message has more fields than fit.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, WireError> {
        if bytes.len() != MESSAGE_SIZE {
            return Err(WireError::Size(bytes.len()));
        }
        Ok(Self { rest: bytes })
    }

    fn take<const LENGTH: usize>(&mut self) -> [u8; LENGTH] {
        let (field, rest) =
            self.rest.split_first_chunk().expect("every message's fields fit in MESSAGE_SIZE");
        self.rest = rest;
        *field
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn cell(&mut self) -> Result<Cell, WireError> {
        let (generation, slot, state, value) = (self.u32(), self.u32(), self.u32(), self.u32());
        if slot >= SLOTS {
            return Err(WireError::Field("slot"));
        }
        let value = u8::try_from(value).map_err(|_| WireError::Field("worker"))?;
        let worker = match (state, value) {
            (0, 0) => WorkerState::None,
            (1, 0) => WorkerState::Running,
            (2, code) => WorkerState::Exited(code),
            (3, signal) => WorkerState::Killed(signal),
            _ => return Err(WireError::Field("worker")),
        };
        Ok(Cell { generation, slot, worker, class: self.class()?, cpus: self.u64() })
    }

    fn class(&mut self) -> Result<Class, WireError> {
        match self.u32() {
            0 => Ok(Class::Burstable),
            1 => Ok(Class::Guaranteed),
            _ => Err(WireError::Field("class")),
        }
    }

    fn enforcement(&mut self) -> Enforcement {
        Enforcement { landlock: self.u32(), shortfall: self.u32() }
    }

    fn failure(&mut self) -> Result<Failure, WireError> {
        let failure = match self.u32() {
            1 => Failure::Request,
            2 => Failure::Denied,
            3 => Failure::Slots,
            4 => Failure::NoCell,
            5 => Failure::Cgroup,
            6 => Failure::Clone,
            7 => Failure::Root,
            8 => Failure::Listener,
            9 => Failure::Lock,
            10 => Failure::Exec,
            11 => Failure::Swap,
            _ => return Err(WireError::Field("failure")),
        };
        Ok(failure)
    }

    fn end(&self) -> Result<(), WireError> {
        if self.rest.iter().all(|byte| *byte == 0) { Ok(()) } else { Err(WireError::Trailing) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn requests() -> impl Strategy<Value = Request> {
        prop_oneof![
            any::<u32>().prop_map(|version| Request::Hello { version }),
            (any::<u32>(), profiles())
                .prop_map(|(generation, profile)| Request::CreateCell { generation, profile }),
            (any::<u32>(), "/dev/[a-z0-9._:-]{0,15}[a-z0-9]").prop_filter_map(
                "a path",
                |(generation, path)| {
                    Some(Request::GrantDevice { generation, path: DevicePath::new(&path)? })
                }
            ),
            tenants().prop_map(Request::SetTenant),
            any::<u32>().prop_map(|generation| Request::StartWorker { generation }),
            any::<u32>().prop_map(|generation| Request::Adopt { generation }),
            any::<u32>().prop_map(|generation| Request::KillWorker { generation }),
            any::<u32>().prop_map(|generation| Request::DestroyCell { generation }),
            any::<u32>().prop_map(|index| Request::CellAt { index }),
            Just(Request::Shutdown),
            Just(Request::Enforcement),
            Just(Request::StartRouter),
            any::<u32>().prop_map(|generation| Request::SwapModel { generation }),
            any::<(u32, u32)>()
                .prop_map(|(generation, milliseconds)| Request::Background { generation, milliseconds }),
        ]
    }

    fn profiles() -> impl Strategy<Value = Profile> {
        (any::<(u64, u32, u64, u32, u32)>(), classes()).prop_map(
            |((memory_bytes, pids_max, cpus, cpu_thousandths, tenant), class)| Profile {
                class,
                memory_bytes,
                pids_max,
                cpus,
                cpu_thousandths,
                tenant,
            },
        )
    }

    fn tenants() -> impl Strategy<Value = Tenant> {
        (any::<(u32, u64, u32, u32, u32)>(), "[a-zA-Z0-9_-]{1,32}").prop_map(
            |((uid_base, memory_bytes, pids_max, cpu_thousandths, cells_max), name)| Tenant {
                uid_base,
                memory_bytes,
                pids_max,
                cpu_thousandths,
                cells_max,
                name: TenantName::new(&name).unwrap(),
            },
        )
    }

    fn classes() -> impl Strategy<Value = Class> {
        prop::sample::select(vec![Class::Burstable, Class::Guaranteed])
    }

    fn enforcements() -> impl Strategy<Value = Enforcement> {
        any::<(u32, u32)>().prop_map(|(landlock, shortfall)| Enforcement { landlock, shortfall })
    }

    fn cells() -> impl Strategy<Value = Cell> {
        let worker = prop_oneof![
            Just(WorkerState::None),
            Just(WorkerState::Running),
            any::<u8>().prop_map(WorkerState::Exited),
            any::<u8>().prop_map(WorkerState::Killed),
        ];
        (any::<u32>(), 0..SLOTS, worker, classes(), any::<u64>()).prop_map(
            |(generation, slot, worker, class, cpus)| Cell { generation, slot, worker, class, cpus },
        )
    }

    fn failures() -> impl Strategy<Value = Failure> {
        use Failure::*;
        prop::sample::select(vec![
            Request, Denied, Slots, NoCell, Cgroup, Clone, Root, Listener, Lock, Exec, Swap,
        ])
    }

    fn replies() -> impl Strategy<Value = Reply> {
        prop_oneof![
            Just(Reply::Done),
            cells().prop_map(Reply::Cell),
            (cells(), any::<u32>(), enforcements()).prop_map(|(cell, pid, enforcement)| Reply::Started {
                cell,
                pid,
                enforcement
            }),
            enforcements().prop_map(Reply::Enforcement),
            (failures(), any::<i32>(), ".{0,60}")
                .prop_map(|(failure, errno, text)| Reply::failed(failure, errno, &text)),
        ]
    }

    proptest! {
        #[test]
        fn requests_come_back_as_they_were_sent(request in requests()) {
            prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
        }

        #[test]
        fn replies_come_back_as_they_were_sent(reply in replies()) {
            prop_assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
        }

        #[test]
        fn any_changed_byte_is_refused_or_means_something_else(request in requests(), at in 0..MESSAGE_SIZE, flip in 1..=255_u8) {
            let mut bytes = request.encode();
            bytes[at] ^= flip;
            prop_assert_ne!(Request::decode(&bytes), Ok(request));
        }

        #[test]
        fn what_decodes_has_one_encoding(kind in 0..16_u8, mut bytes in prop::collection::vec(any::<u8>(), 0..MESSAGE_SIZE)) {
            bytes.resize(MESSAGE_SIZE, 0);
            bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
            if let Ok(request) = Request::decode(&bytes) {
                prop_assert_eq!(&request.encode()[..], &bytes[..]);
            }
            if let Ok(reply) = Reply::decode(&bytes) {
                prop_assert_eq!(&reply.encode()[..], &bytes[..]);
            }
        }

        #[test]
        fn another_size_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assume!(bytes.len() != MESSAGE_SIZE);
            prop_assert_eq!(Request::decode(&bytes), Err(WireError::Size(bytes.len())));
            prop_assert_eq!(Reply::decode(&bytes), Err(WireError::Size(bytes.len())));
        }
    }

    #[test]
    fn what_an_older_launcher_knows_is_said_to_it_as_it_was() {
        let plain = Profile {
            class: Class::Burstable,
            memory_bytes: 7,
            pids_max: 8,
            cpus: 9,
            cpu_thousandths: 0,
            tenant: 0,
        };
        let beyond_what_it_reads = |profile| {
            let bytes = Request::CreateCell { generation: 1, profile }.encode();
            bytes[32..].iter().any(|byte| *byte != 0)
        };
        assert!(!beyond_what_it_reads(plain));
        assert!(
            beyond_what_it_reads(Profile { cpu_thousandths: 1500, ..plain }),
            "it refuses, and ignores nothing"
        );
        assert!(beyond_what_it_reads(Profile { tenant: 70_000, ..plain }), "it refuses, and ignores nothing");
    }
}
