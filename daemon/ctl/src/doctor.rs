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

/// Prints one line per requirement; exits 3 when one is missing.
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
    let missing = found.requirements.iter().any(|requirement| requirement.state == "missing");
    Ok(if missing { Exit::Refused } else { Exit::Done })
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
    let wanting: Vec<_> = found.requirements.iter().filter(|requirement| requirement.state != "ok").collect();
    for requirement in &wanting {
        text += &format!("\n{}: {}\n", safe(&requirement.name), safe(&requirement.why));
        if let Some(remedy) = &requirement.remedy {
            text += &format!("{DIM}hint:{DIM:#} {}\n", safe(remedy));
        }
    }
    let missing = wanting.iter().filter(|requirement| requirement.state == "missing").count() as u64;
    let verdict = match (missing, wanting.len()) {
        (0, 0) => format!("{GOOD}ready{GOOD:#}"),
        (0, _) => format!("{WARN}ready, with less than it could have{WARN:#}"),
        _ => format!("{BAD}not ready{BAD:#}: {} missing", count(missing, "requirement")),
    };
    text + &format!("\n{verdict} ({asked})\n")
}

#[cfg(test)]
mod tests {
    use super::*;

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
