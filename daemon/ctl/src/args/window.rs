//! The command about the time in which a key counts. The doc comments here are the help.

use super::parse_date;
use super::trust::{DraftArguments, parse_days};
use clap::Args;
use std::time::Duration;

/// From when on and until when a key counts, as far as it is said.
#[derive(Debug, Clone, Copy, Args)]
pub struct WindowBounds {
    /// In a draft: from when on the key counts, counted from now (`30d`), or a date (`2027-01-01`,
    /// `2027-01-01T08:00:00Z`)
    #[arg(long, value_name = "TIME", value_parser = parse_moment, requires = "draft")]
    pub not_before: Option<Moment>,
    /// In a draft: until when the key counts, counted from now or a date
    #[arg(long, value_name = "TIME", value_parser = parse_moment, requires = "draft")]
    pub not_after: Option<Moment>,
}

/// `turnoutctl trust window ...`
#[derive(Debug, Args)]
pub struct WindowArguments {
    /// The key's id, or the first digits of it
    pub key_id: String,
    #[command(flatten)]
    pub bounds: WindowBounds,
    /// Let it count at any time; otherwise a bound that is not given stays as it is
    #[arg(long, conflicts_with_all = ["not_before", "not_after"])]
    #[arg(required_unless_present_any = ["not_before", "not_after"])]
    pub none: bool,
    #[command(flatten)]
    pub draft: DraftArguments,
}

/// A moment to look forward to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// So long from now.
    In(Duration),
    /// Milliseconds since the epoch.
    At(u64),
}

fn parse_moment(text: &str) -> Result<Moment, String> {
    if let Ok(time) = parse_days(text) {
        return Ok(Moment::In(time));
    }
    let refused =
        || format!("`{text}` is neither a time such as `12h` or `365d` nor a date such as `2027-01-01`");
    parse_date(text).ok_or_else(refused)?.map(Moment::At)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_from_now_or_a_date() {
        assert_eq!(parse_moment("30d"), Ok(Moment::In(Duration::from_secs(2_592_000))));
        assert_eq!(parse_moment("1970-01-02"), Ok(Moment::At(86_400_000)));
        assert_eq!(parse_moment("1970-01-01T00:00:01Z"), Ok(Moment::At(1000)));
        for bad in ["", "tomorrow", "1969-12-31", "2027-13-01", "30", "0d", "-1d", "90s"] {
            assert!(parse_moment(bad).is_err(), "{bad:?}");
        }
    }
}
