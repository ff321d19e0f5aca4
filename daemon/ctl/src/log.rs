//! `turnoutctl log`: the events as the systemd journal has them, read through `journalctl`, which knows where the
//! journal lies and what the caller may see. Evidence is `audit log`: anybody can write to the systemd journal.

use crate::args::LogArguments;
use crate::args::Output;
use crate::error::{Exit, Failure};
use crate::render::{BAD, DIM, PLAIN, STRONG, Screen, WARN, safe, time};
use anstyle::Style;
use serde::Serialize;
use serde_json::Value;
use std::collections::{HashSet, VecDeque};
use std::io;
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use turnout_protocol::control::SCHEMA;

/// Where journald listens, when it runs.
const JOURNALD: &str = "/run/systemd/journal/socket";
/// What the exporter calls itself there.
const IDENTIFIER: &str = "SYSLOG_IDENTIFIER=turnout";
/// Longest entry that is read, bytes; a longer one was not written by the exporter.
const ENTRY_MAX: u64 = 1024 * 1024;
/// Entries asked for beyond those wanted: after a crash of the exporter some are there twice.
const TWICE: usize = 256;
/// Events that are remembered so that none is shown twice, the newest.
const SEEN_MAX: usize = 65_536;

/// One event.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Event {
    seq: u64,
    event_id: String,
    time_ms: u64,
    event: String,
    priority: u8,
    model: Option<String>,
    version: Option<String>,
    release: Option<String>,
    message: String,
}

/// What was shown.
#[derive(Default)]
struct Seen {
    ids: HashSet<String>,
    order: VecDeque<String>,
}

impl Seen {
    /// True for an event that was not seen before.
    fn first(&mut self, event: &Event) -> bool {
        if !self.ids.insert(event.event_id.clone()) {
            return false;
        }
        self.order.push_back(event.event_id.clone());
        if self.order.len() > SEEN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

/// What `--output json` prints without `--follow`.
#[derive(Serialize)]
struct Log<'a> {
    schema: &'a str,
    events: &'a [Event],
}

/// Prints the newest events, and goes on when asked to.
pub async fn log(screen: &mut Screen, arguments: &LogArguments) -> Result<Exit, Failure> {
    if arguments.directory.is_none() && !Path::new(JOURNALD).exists() {
        return Err(Failure::new(Exit::Failed, "journald does not run on this host")
            .hint("`turnoutctl audit log` has the same events from the daemon itself"));
    }
    let mut seen = Seen::default();
    let found = newest(arguments, &mut seen).await?;
    let nothing = found.is_empty();
    match screen.output {
        Output::Json if !arguments.follow => {
            screen.show(&Log { schema: SCHEMA, events: &found }, "")?;
        }
        _ => found.iter().try_for_each(|event| show(screen, event))?,
    }
    if arguments.follow && !screen.reader_is_gone() {
        follow(screen, arguments, &mut seen).await?;
    } else if nothing && screen.output == Output::Text {
        screen.text(&nothing_found(arguments))?;
    }
    Ok(Exit::Done)
}

/// A filter that fits nothing says nothing of the exporter.
fn nothing_found(arguments: &LogArguments) -> String {
    let about = [
        arguments.model.as_ref().map(|model| format!(" about model `{model}`")),
        arguments.release.as_ref().map(|release| format!(" of release `{release}`")),
    ];
    let about: String = about.into_iter().flatten().collect();
    let hint = if about.is_empty() {
        "`systemctl enable --now turnout-export` brings them there; reading them takes root or the group \
         `systemd-journal` (or `adm`); `turnoutctl audit log` has them from the daemon itself"
    } else {
        "`turnoutctl status` lists models, `turnoutctl release list` releases; without a filter, `turnoutctl log` shows \
         whether any event is there"
    };
    format!("no event{about} in the systemd journal\n{DIM}hint:{DIM:#} {hint}\n")
}

async fn newest(arguments: &LogArguments, seen: &mut Seen) -> Result<Vec<Event>, Failure> {
    let asked = arguments.lines.saturating_add(TWICE).to_string();
    let (mut child, mut entries) = start(arguments, &["--lines", &asked])?;
    let mut found = Vec::new();
    while let Some(event) = next(&mut entries).await? {
        if seen.first(&event) {
            found.push(event);
        }
    }
    ended(&mut child).await?;
    // A record that was given again after a crash comes behind newer ones.
    found.sort_by_key(|event| event.seq);
    Ok(found.split_off(found.len().saturating_sub(arguments.lines)))
}

/// Begins a little before the end, so that nothing falls between the two looks.
async fn follow(screen: &mut Screen, arguments: &LogArguments, seen: &mut Seen) -> Result<(), Failure> {
    let (mut child, mut entries) = start(arguments, &["--follow", "--lines", &TWICE.to_string()])?;
    while let Some(event) = next(&mut entries).await? {
        if seen.first(&event) {
            show(screen, &event)?;
        }
        if screen.reader_is_gone() {
            return Ok(());
        }
    }
    ended(&mut child).await
}

fn start(arguments: &LogArguments, more: &[&str]) -> Result<(Child, BufReader<ChildStdout>), Failure> {
    let mut command = Command::new("journalctl");
    command.args(["--output=json", "--all", "--quiet", "--no-pager", IDENTIFIER]).args(more);
    if let Some(directory) = &arguments.directory {
        command.arg("--directory").arg(directory);
    }
    if let Some(model) = &arguments.model {
        command.arg(format!("TURNOUT_MODEL={model}"));
    }
    if let Some(release) = &arguments.release {
        command.arg(format!("TURNOUT_RELEASE={release}"));
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::new(Exit::Failed, "no `journalctl` on this host")
            .hint("`turnoutctl audit log` has the same events from the daemon itself"),
        _ => Failure::new(Exit::Failed, format!("cannot start `journalctl`: {error}")),
    })?;
    let output = child.stdout.take().expect("its standard output is piped");
    Ok((child, BufReader::new(output)))
}

/// The next entry that is an event of ours.
async fn next(entries: &mut BufReader<ChildStdout>) -> Result<Option<Event>, Failure> {
    loop {
        let mut line = Vec::new();
        let read = entries.take(ENTRY_MAX).read_until(b'\n', &mut line).await?;
        if read == 0 {
            return Ok(None);
        }
        if let Some(event) = serde_json::from_slice(&line).ok().and_then(|entry| event(&entry)) {
            return Ok(Some(event));
        }
    }
}

async fn ended(child: &mut Child) -> Result<(), Failure> {
    let mut said = String::new();
    if let Some(mut errors) = child.stderr.take() {
        errors.read_to_string(&mut said).await?;
    }
    let status = child.wait().await?;
    // Without any entry it ends with 1 and says nothing.
    if status.success() || said.trim().is_empty() {
        return Ok(());
    }
    let said = safe(said.lines().next().unwrap_or_default());
    Err(Failure::new(Exit::Failed, format!("journalctl: {said}"))
        .hint("members of the group `systemd-journal` may read the whole journal"))
}

/// An entry of journald as an event, if it is one.
fn event(entry: &Value) -> Option<Event> {
    let text = |name: &str| entry[name].as_str();
    let said = |name: &str| text(name).map(str::to_owned);
    let nanoseconds: u64 = text("TURNOUT_TIME_NS")?.parse().ok()?;
    Some(Event {
        seq: text("TURNOUT_SEQ")?.parse().ok()?,
        event_id: said("TURNOUT_EVENT_ID")?,
        time_ms: nanoseconds / 1_000_000,
        event: said("TURNOUT_EVENT").unwrap_or_default(),
        priority: text("PRIORITY")?.parse().ok()?,
        model: said("TURNOUT_MODEL"),
        version: said("TURNOUT_VERSION"),
        release: said("TURNOUT_RELEASE"),
        message: said("MESSAGE")?,
    })
}

fn show(screen: &mut Screen, event: &Event) -> Result<(), Failure> {
    match screen.output {
        Output::Text => screen.text(&line(event))?,
        Output::Json | Output::Ndjson => screen.line_of(event)?,
    }
    Ok(())
}

/// `    43  2026-11-22 14:15:01 UTC  warning  digits@2.0  r-2 is held: ...`.
fn line(event: &Event) -> String {
    let (word, style) = urgency(event.priority);
    let about = match (&event.model, &event.version) {
        (Some(model), Some(version)) => format!("{model}@{version}"),
        (Some(model), None) => model.clone(),
        (None, _) => "-".to_owned(),
    };
    format!(
        "{DIM}{:>6}{DIM:#}  {}  {style}{word:<7}{style:#}  {STRONG}{:<16}{STRONG:#}  {}\n",
        event.seq,
        time(event.time_ms),
        safe(&about),
        safe(&event.message)
    )
}

/// The words of syslog(3) as people use them.
fn urgency(priority: u8) -> (&'static str, Style) {
    match priority {
        0..=3 => ("error", BAD),
        4 => ("warning", WARN),
        5 => ("notice", PLAIN),
        6 => ("info", PLAIN),
        _ => ("debug", DIM),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_entry_that_is_no_event_is_passed_over() {
        let whole = json!({
            "TURNOUT_SEQ": "43", "TURNOUT_EVENT_ID": "43/ab", "TURNOUT_TIME_NS": "1795356901000000000",
            "TURNOUT_EVENT": "held", "PRIORITY": "4", "TURNOUT_MODEL": "digits", "TURNOUT_RELEASE": "r-2",
            "MESSAGE": "r-2 is held: \u{1b}[31mno",
        });
        let read = event(&whole).unwrap();
        assert_eq!((read.seq, read.release.as_deref(), read.version), (43, Some("r-2"), None));
        for missing in ["TURNOUT_SEQ", "TURNOUT_EVENT_ID", "TURNOUT_TIME_NS", "PRIORITY", "MESSAGE"] {
            let mut entry = whole.clone();
            entry.as_object_mut().unwrap().remove(missing);
            assert_eq!(event(&entry), None, "{missing}");
            // What is not text comes as a list of bytes, or as null when it is too large.
            entry[missing] = json!([1, 2]);
            assert_eq!(event(&entry), None, "{missing}");
        }
    }

    #[test]
    fn a_line_says_how_urgent_it_is_and_cannot_colour_itself() {
        let event = Event {
            seq: 43,
            event_id: "43/ab".to_owned(),
            time_ms: 1_795_356_901_000,
            event: "held".to_owned(),
            priority: 4,
            model: Some("digits".to_owned()),
            version: Some("2.0".to_owned()),
            release: Some("r-2".to_owned()),
            message: "r-2 is held:\u{1b}[31m no\nroom".to_owned(),
        };
        let text = anstream::adapter::strip_str(&line(&event)).to_string();
        assert!(
            text.starts_with("    43  2026-11-22 14:15:01 UTC  warning  digits@2.0        r-2 is held:"),
            "{text}"
        );
        assert_eq!((text.lines().count(), text.contains('\u{1b}')), (1, false), "{text:?}");
    }
}
