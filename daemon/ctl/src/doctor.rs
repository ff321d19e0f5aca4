//! `turnoutctl doctor`: is this host ready? Asks the daemon; where none answers, the daemon's binary looks by itself.
//! Whoever asks this may have a daemon that does not come up, with the service manager holding its socket open.

use crate::error::{Exit, Failure};
use crate::render::{BAD, DIM, GOOD, Screen, Table, WARN, count, safe, styled, words};
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;
use turnout_protocol::client::{Client, ClientError};
use turnout_protocol::control::Doctor;

const DAEMON: &str = "turnoutd";
/// The configuration that the packages' unit gives the daemon.
const CONFIGURATION: &str = "/etc/turnout/turnout.toml";
/// How long the daemon's binary may look.
const LOOK_MAX: Duration = Duration::from_secs(60);
/// How long a daemon may take to say that it is there; what it then tries out has the usual time.
const THERE_MAX: Duration = Duration::from_secs(3);

/// Prints one line per requirement; exits 3 when one is missing, 5 when what only root can try was not.
pub async fn doctor(client: &Client, screen: &mut Screen) -> Result<Exit, Failure> {
    let (found, asked) = match ask(client).await {
        Ok(found) => (found, "as the running daemon found it".to_owned()),
        Err(error) if error.is_away() => {
            let configuration = readable(Path::new(CONFIGURATION));
            let asked = stood_in(&error, configuration);
            (look(error, configuration).await?, asked)
        }
        Err(error) => return Err(error.into()),
    };
    screen.show(&found, &text(&found, &asked))?;
    Ok(exit(&found))
}

fn exit(found: &Doctor) -> Exit {
    match (count_of(found, "missing"), count_of(found, "untried")) {
        (0, 0) => Exit::Done,
        (0, _) => Exit::Denied,
        _ => Exit::Refused,
    }
}

fn count_of(found: &Doctor, state: &str) -> u64 {
    found.requirements.iter().filter(|requirement| requirement.state == state).count() as u64
}

async fn ask(client: &Client) -> Result<Doctor, ClientError> {
    client.clone().with_patience(THERE_MAX).status().await?;
    client.doctor().await
}

async fn look(away: ClientError, configuration: Option<&Path>) -> Result<Doctor, Failure> {
    let beside =
        std::env::current_exe().ok().map(|own| own.with_file_name(DAEMON)).filter(|path| path.is_file());
    let binary = beside.unwrap_or_else(|| PathBuf::from(DAEMON));
    let run = Command::new(&binary).args(arguments(configuration)).kill_on_drop(true).output();
    let Ok(Ok(output)) = tokio::time::timeout(LOOK_MAX, run).await else {
        let state = state(&away);
        return Err(Failure::from(away)
            .hint(format!("`{DAEMON}` {state}, and is not to be found beside turnoutctl or in PATH")));
    };
    serde_json::from_slice(&output.stdout).map_err(|_| {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = safe(said.lines().next().unwrap_or("it said nothing"));
        Failure::new(Exit::Failed, format!("`{} doctor` gave no findings: {said}", binary.display()))
    })
}

/// The file, if it is there and the caller may read it.
fn readable(file: &Path) -> Option<&Path> {
    File::open(file).is_ok().then_some(file)
}

fn arguments(configuration: Option<&Path>) -> Vec<&OsStr> {
    let configuration = configuration.into_iter().flat_map(|file| ["--config".as_ref(), file.as_os_str()]);
    configuration.chain(["doctor", "--output", "json"].map(OsStr::new)).collect()
}

/// What is known of a daemon that gave no answer.
fn state(away: &ClientError) -> &'static str {
    match away {
        ClientError::Unreachable { .. } => "does not run",
        _ => "does not answer",
    }
}

/// Who looked in the daemon's place, and where.
fn stood_in(away: &ClientError, configuration: Option<&Path>) -> String {
    let places = configuration.map_or_else(
        || "every setting has its default".to_owned(),
        |file| format!("the settings are those of `{}`", file.display()),
    );
    let systemd = match away {
        ClientError::Unreachable { .. } => "",
        _ => ": `journalctl -u turnoutd`",
    };
    format!("the daemon {}{systemd}; {places}", state(away))
}

fn text(found: &Doctor, asked: &str) -> String {
    let mut table = Table::new(&["STATE", "REQUIREMENT", "FOUND"]);
    for requirement in &found.requirements {
        let style = match requirement.state.as_str() {
            "ok" => GOOD,
            "missing" => BAD,
            _ => WARN,
        };
        let cells = [
            styled(style, safe(&requirement.state)),
            words(safe(&requirement.name)),
            words(safe(&requirement.found)),
        ];
        table.row(cells.into());
    }
    let mut text = table.text();
    // Why each that was not tried matters says nothing of this host; the verdict has the one remedy for all of them.
    let wanting = |state: &str| !["ok", "untried"].contains(&state);
    for requirement in found.requirements.iter().filter(|requirement| wanting(&requirement.state)) {
        text += &format!("\n{}: {}\n", safe(&requirement.name), safe(&requirement.why));
        if let Some(remedy) = &requirement.remedy {
            text += &format!("{DIM}hint:{DIM:#} {}\n", safe(remedy));
        }
    }
    text + &format!("\n{} ({asked})\n", verdict(found))
}

fn verdict(found: &Doctor) -> String {
    let (missing, untried) = (count_of(found, "missing"), count_of(found, "untried"));
    let not_tried =
        format!("{} not tried: root can, by `sudo turnoutctl doctor`", count(untried, "requirement"));
    match (missing, untried) {
        (0, 0) if count_of(found, "ok") == found.requirements.len() as u64 => format!("{GOOD}ready{GOOD:#}"),
        (0, 0) => format!("{WARN}ready, with less than it could have{WARN:#}"),
        (0, _) => format!("{WARN}not known{WARN:#}: {not_tried}"),
        (_, 0) => format!("{BAD}not ready{BAD:#}: {} missing", count(missing, "requirement")),
        _ => format!("{BAD}not ready{BAD:#}: {} missing, {not_tried}", count(missing, "requirement")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use turnout_protocol::control::{Requirement, SCHEMA};

    #[test]
    fn what_was_not_tried_makes_no_host_ready() {
        let root = "not tried: root can, by `sudo turnoutctl doctor`";
        for (states, code, verdict) in [
            (["ok", "ok", "ok"], Exit::Done, "ready (".to_owned()),
            (["ok", "degraded", "ok"], Exit::Done, "ready, with less than it could have (".to_owned()),
            (["untried", "untried", "degraded"], Exit::Denied, format!("not known: 2 requirements {root} (")),
            (["ok", "missing", "ok"], Exit::Refused, "not ready: 1 requirement missing (".to_owned()),
            (
                ["untried", "missing", "ok"],
                Exit::Refused,
                format!("not ready: 1 requirement missing, 1 requirement {root} ("),
            ),
        ] {
            let requirement = |state: &str| Requirement {
                name: "btrfs".to_owned(),
                state: state.to_owned(),
                found: "found".to_owned(),
                why: "why".to_owned(),
                remedy: None,
            };
            let requirements = states.map(requirement).into();
            let found = Doctor { schema: SCHEMA.to_owned(), requirements };
            assert_eq!(exit(&found), code, "{states:?}");
            let text = anstream::adapter::strip_str(&text(&found, "asked")).to_string();
            assert!(text.lines().last().unwrap().starts_with(&verdict), "{text}");
        }
    }

    #[test]
    fn the_daemons_binary_is_given_the_configuration_that_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("turnout.toml");
        assert_eq!(arguments(readable(&file)), ["doctor", "--output", "json"]);
        std::fs::write(&file, "").unwrap();
        let given = [OsStr::new("--config"), file.as_os_str()];
        assert_eq!(arguments(readable(&file))[..2], given);
        let late = ClientError::Late { call: "GET /v1/status".to_owned(), within: THERE_MAX };
        let said = stood_in(&late, readable(&file));
        assert!(said.contains("turnout.toml") && said.contains("does not answer: `journalctl"), "{said}");
    }
}
