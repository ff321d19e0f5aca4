//! Element types and typed, flat, row-major values, owned and borrowed.

use serde::{Serialize, Serializer};
use std::fmt;

macro_rules! element_types {
    ($($variant:ident $rust:ty, $name:literal;)*) => {
        /// The element types that have a Rust type of their own. `FP16`, `BF16` and `BYTES` are not among them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the names are the protocol's own")]
        pub enum Datatype { $($variant,)* }

        impl Datatype {
            /// Every type.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name in the protocol: `FP32`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The type with this name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }

            /// Bytes of one element.
            pub fn size(self) -> usize {
                match self { $(Self::$variant => size_of::<$rust>(),)* }
            }
        }

        /// The values of one tensor.
        #[derive(Debug, Clone, PartialEq)]
        #[expect(missing_docs, reason = "the names are the protocol's own")]
        pub enum Elements { $($variant(Vec<$rust>),)* }

        /// The values of one tensor, borrowed from where a model left them.
        #[derive(Debug, Clone, Copy, PartialEq)]
        #[expect(missing_docs, reason = "the names are the protocol's own")]
        pub enum ElementsRef<'a> { $($variant(&'a [$rust]),)* }

        impl Elements {
            /// The same values, borrowed.
            pub fn borrowed(&self) -> ElementsRef<'_> {
                match self { $(Self::$variant(values) => ElementsRef::$variant(values),)* }
            }
        }

        impl ElementsRef<'_> {
            /// Their type.
            pub fn datatype(self) -> Datatype {
                match self { $(Self::$variant(_) => Datatype::$variant,)* }
            }

            /// How many there are.
            pub fn len(self) -> usize {
                match self { $(Self::$variant(values) => values.len(),)* }
            }

            /// There is none.
            pub fn is_empty(self) -> bool {
                self.len() == 0
            }

            /// One value as the nearest double; false is 0, true is 1.
            ///
            /// # Panics
            /// When there is no such value.
            pub fn value(self, index: usize) -> f64 {
                match self { $(Self::$variant(values) => values[index].real(),)* }
            }

            /// The first value that `is_wanted`.
            pub fn position(self, is_wanted: impl Fn(f64) -> bool) -> Option<usize> {
                match self { $(Self::$variant(values) => values.iter().position(|value| is_wanted(value.real())),)* }
            }

            /// The first row of `width` values whose sum `is_wanted`, and that sum.
            pub fn row_with_sum(self, width: usize, is_wanted: impl Fn(f64) -> bool) -> Option<(usize, f64)> {
                match self {
                    $(Self::$variant(values) => {
                        let sums = values.chunks(width.max(1)).map(|row| row.iter().map(|value| value.real()).sum());
                        sums.enumerate().find(|(_, sum)| is_wanted(*sum))
                    })*
                }
            }
        }
    };
}

element_types! {
    Bool bool, "BOOL";
    Uint8 u8, "UINT8";
    Uint16 u16, "UINT16";
    Uint32 u32, "UINT32";
    Uint64 u64, "UINT64";
    Int8 i8, "INT8";
    Int16 i16, "INT16";
    Int32 i32, "INT32";
    Int64 i64, "INT64";
    Fp32 f32, "FP32";
    Fp64 f64, "FP64";
}

/// The nearest double.
trait Real {
    fn real(self) -> f64;
}

impl Real for bool {
    fn real(self) -> f64 {
        f64::from(u8::from(self))
    }
}

macro_rules! real {
    ($($rust:ty)*) => {
        $(impl Real for $rust {
            #[inline]
            fn real(self) -> f64 {
                self as f64
            }
        })*
    };
}
real!(u8 u16 u32 u64 i8 i16 i32 i64 f32 f64);

impl fmt::Display for Datatype {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}

impl Serialize for Datatype {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// The number of elements of a shape; `None` for a negative dimension or a product beyond the machine's word.
pub fn element_count(shape: &[i64]) -> Option<usize> {
    shape
        .iter()
        .try_fold(1_usize, |product, &dimension| product.checked_mul(usize::try_from(dimension).ok()?))
}
