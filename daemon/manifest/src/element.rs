//! Elements of tensors held against ranges and sums, on the path of every request: no text is parsed and nothing is
//! allocated while all is well. What must hold is left to `contract` and `assertion`.

use crate::contract::Decimal;
use std::fmt::Display;

/// How many elements are looked at between two early exits: long enough for the compiler to use wide registers.
const BLOCK: usize = 1024;

/// What was found to break a range or an assertion.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found}, {required}")]
pub struct Violation {
    /// Position of the first offending element, where one element is to blame.
    pub element: Option<usize>,
    /// What was found.
    pub found: String,
    /// What must hold.
    pub required: String,
}

impl Violation {
    pub(crate) fn at(element: usize, value: impl Display, required: impl Into<String>) -> Self {
        let found = format!("element {element} is `{value}`");
        Self { element: Some(element), found, required: required.into() }
    }
}

mod sealed {
    pub trait Sealed {}
}

/// An element type with an order: `f32`, `f64` and the integers up to 64 bits.
pub trait Element: Copy + Display + sealed::Sealed {
    /// True if it is a number that lies between the ends.
    #[doc(hidden)]
    fn inside(self, endpoints: &Endpoints) -> bool;
}

/// The ends of a range in each type that compares with them.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Endpoints {
    pub(crate) minimum: f64,
    pub(crate) maximum: f64,
    /// A float that is the nearest one to an end counts as the end.
    single: (f32, f32),
    /// Whole numbers inside, exact also beyond 2^53.
    whole: (i64, i64),
}

impl Endpoints {
    pub(crate) fn new(minimum: Option<&Decimal>, maximum: Option<&Decimal>) -> Self {
        let low = minimum.map_or(f64::NEG_INFINITY, Decimal::value);
        let high = maximum.map_or(f64::INFINITY, Decimal::value);
        let lowest = minimum.map_or(i64::MIN, |end| whole_number(end, Rounding::Up));
        let highest = maximum.map_or(i64::MAX, |end| whole_number(end, Rounding::Down));
        let whole = (lowest, highest);
        Self { minimum: low, maximum: high, single: (low as f32, high as f32), whole }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Rounding {
    Up,
    Down,
}

/// The whole number nearest to a decimal on one side, from its at most 18 digits: doubles would round long ones.
fn whole_number(decimal: &Decimal, rounding: Rounding) -> i64 {
    let text = decimal.as_str();
    let (digits, negative) = text.strip_prefix('-').map_or((text, false), |digits| (digits, true));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let magnitude = whole.bytes().fold(0i64, |number, digit| number * 10 + i64::from(digit - b'0'));
    let exact = fraction.bytes().all(|digit| digit == b'0');
    let towards_zero = if negative { -magnitude } else { magnitude };
    match (exact, negative, rounding) {
        (true, _, _) | (false, true, Rounding::Up) | (false, false, Rounding::Down) => towards_zero,
        (false, false, Rounding::Up) => towards_zero + 1,
        (false, true, Rounding::Down) => towards_zero - 1,
    }
}

impl sealed::Sealed for f32 {}
impl Element for f32 {
    fn inside(self, endpoints: &Endpoints) -> bool {
        self >= endpoints.single.0 && self <= endpoints.single.1
    }
}

impl sealed::Sealed for f64 {}
impl Element for f64 {
    fn inside(self, endpoints: &Endpoints) -> bool {
        self >= endpoints.minimum && self <= endpoints.maximum
    }
}

macro_rules! integer_elements {
    ($($name:ty),*) => {$(
        impl sealed::Sealed for $name {}
        impl Element for $name {
            fn inside(self, endpoints: &Endpoints) -> bool {
                // No end has more than 18 digits: what does not fit an `i64` is above every closed one.
                let whole = i64::try_from(self).unwrap_or(i64::MAX);
                whole >= endpoints.whole.0 && whole <= endpoints.whole.1
            }
        }
    )*};
}
integer_elements!(i8, i16, i32, i64, u8, u16, u32, u64);

/// A floating-point element, on which sums are taken.
pub trait Float: Element + Into<f64> {}
impl Float for f32 {}
impl Float for f64 {}

pub(crate) fn first_outside<T: Element>(elements: &[T], endpoints: &Endpoints) -> Option<usize> {
    first_failing(elements, |element| element.inside(endpoints))
}

/// The first element for which `holds` is false, looking at whole blocks without a branch per element.
pub(crate) fn first_failing<T: Copy>(elements: &[T], holds: impl Fn(T) -> bool) -> Option<usize> {
    for (index, block) in elements.chunks(BLOCK).enumerate() {
        if !block.iter().fold(true, |all, element| all & holds(*element)) {
            let within = block.iter().position(|element| !holds(*element));
            return within.map(|position| index * BLOCK + position);
        }
    }
    None
}
