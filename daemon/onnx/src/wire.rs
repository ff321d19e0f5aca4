//! The protobuf encoding (<https://protobuf.dev/programming-guides/encoding/>) as a walk over a seekable file: what is not
//! asked for is skipped unread, and every length and count has a limit.

use crate::OnnxError;
use std::io::{BufReader, Read, Seek, SeekFrom};

/// Longest name, bytes.
pub const NAME_MAX: u64 = 512;
/// Most fields looked at, in all messages together.
pub const FIELDS_MAX: u64 = 20_000_000;

/// The value of a field, not yet read where it has a length.
pub(crate) enum Value {
    Number(u64),
    /// Ends at this position.
    Message(u64),
    Fixed(u64),
}

pub(crate) struct Wire<R> {
    source: BufReader<R>,
    position: u64,
    /// Where the file ends.
    pub end: u64,
    fields: u64,
}

impl<R: Read + Seek> Wire<R> {
    pub fn new(mut source: R) -> Result<Self, OnnxError> {
        let end = source.seek(SeekFrom::End(0)).map_err(OnnxError::Read)?;
        source.rewind().map_err(OnnxError::Read)?;
        Ok(Self { source: BufReader::with_capacity(64 * 1024, source), position: 0, end, fields: 0 })
    }

    /// The next field of the message that ends at `end`.
    pub fn field(&mut self, end: u64) -> Result<Option<(u64, Value)>, OnnxError> {
        if self.position == end {
            return Ok(None);
        }
        self.fields += 1;
        if self.fields > FIELDS_MAX {
            return Err(OnnxError::Limit { what: "fields", limit: FIELDS_MAX });
        }
        let key = self.varint(end)?;
        // Other readers keep 32 bits of it and would see another field.
        if key > u64::from(u32::MAX) {
            return Err(OnnxError::NotOnnx("a field has too large a number"));
        }
        let value = match key & 7 {
            0 => Value::Number(self.varint(end)?),
            1 => Value::Fixed(8),
            2 => {
                let length = self.varint(end)?;
                let message = self.position.checked_add(length).filter(|message| *message <= end);
                Value::Message(message.ok_or(OnnxError::NotOnnx("a field reaches beyond its message"))?)
            }
            5 => Value::Fixed(4),
            _ => return Err(OnnxError::NotOnnx("a field has an unknown encoding")),
        };
        if let Value::Fixed(length) = value
            && end - self.position < length
        {
            return Err(OnnxError::NotOnnx("a field reaches beyond its message"));
        }
        match key >> 3 {
            0 => Err(OnnxError::NotOnnx("a field has the number 0")),
            number => Ok(Some((number, value))),
        }
    }

    pub fn skip(&mut self, value: &Value) -> Result<(), OnnxError> {
        let target = match value {
            Value::Number(_) => self.position,
            Value::Message(end) => *end,
            Value::Fixed(length) => self.position + length,
        };
        let distance =
            i64::try_from(target - self.position).map_err(|_| OnnxError::NotOnnx("it is too long"))?;
        self.source.seek_relative(distance).map_err(OnnxError::Read)?;
        self.position = target;
        Ok(())
    }

    pub fn text(&mut self, end: u64) -> Result<String, OnnxError> {
        let length = end - self.position;
        if length > NAME_MAX {
            return Err(OnnxError::Limit { what: "bytes in a name", limit: NAME_MAX });
        }
        // In bounds: at most NAME_MAX.
        let mut bytes = vec![0; length as usize];
        self.source.read_exact(&mut bytes).map_err(OnnxError::Read)?;
        self.position = end;
        String::from_utf8(bytes).map_err(|_| OnnxError::NotOnnx("a name is not UTF-8"))
    }

    fn varint(&mut self, end: u64) -> Result<u64, OnnxError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            if self.position >= end {
                return Err(OnnxError::NotOnnx("it ends within a field"));
            }
            let mut byte = [0];
            self.source.read_exact(&mut byte).map_err(OnnxError::Read)?;
            self.position += 1;
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(OnnxError::NotOnnx("a number is too long"))
    }
}
