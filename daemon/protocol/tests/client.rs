//! The client against a service of given answers: each way a call can end has its own error, and uploads arrive whole.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test, in its helpers too")]

use service::{Answer, Received, Service, golden, golden_line};
use std::future::Future;
use std::os::unix::net::UnixListener;
use std::time::Duration;
use turnout_protocol::ErrorCode;
use turnout_protocol::client::{Bundle, Client, ClientError, LINE_MAX, Tail};

mod service;

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn answering(status: u16, body: Vec<u8>) -> (Service, Client) {
    let service = Service::start(move |_: &Received| Answer { status, body: body.clone() });
    let client = Client::new(&service.socket);
    (service, client)
}

#[test]
fn a_problem_keeps_code_message_hint_and_details() {
    let (_service, client) = answering(422, golden("Problem"));
    let Err(ClientError::Problem(problem)) = run(client.status()) else { panic!("not a problem") };
    assert_eq!(problem.code, ErrorCode::Refused);
    assert!(problem.hint.is_some() && problem.details.len() == 1);
}

#[test]
fn a_daemon_of_another_version_that_does_not_know_what_is_asked_is_told_as_such() {
    let asked = |status, code: &str, message: &str| {
        let body = format!(r#"{{"code": "{code}", "message": "{message}"}}"#);
        let (_service, client) = answering(status, body.into());
        run(client.status()).unwrap_err()
    };
    for (status, code, message) in [
        (404, "not-found", "no such resource `/v1/next`"),
        (400, "bad-request", "the body: unknown field `next`"),
    ] {
        let error = asked(status, code, message);
        let ClientError::OtherVersion { daemon, problem } = &error else { panic!("{error:?}") };
        assert_eq!((daemon.as_str(), problem.message.as_str()), ("0.0.1", message));
        let versions = format!("turnoutd is 0.0.1, turnoutctl {}", env!("CARGO_PKG_VERSION"));
        assert_eq!(error.to_string(), versions);
    }
    let other = asked(404, "not-found", "no release `r-9`");
    assert!(matches!(other, ClientError::Problem(_)), "{other:?}");
}

#[test]
fn a_missing_daemon_and_a_foreign_reply_are_told_apart() {
    let nowhere = Client::new("/nonexistent/control.sock");
    assert!(matches!(run(nowhere.status()), Err(ClientError::Unreachable { .. })));
    for (status, body) in [(200, "<html>"), (500, "oops"), (200, "{\"schema\": 1}")] {
        let (_service, client) = answering(status, body.into());
        let error = run(client.status()).unwrap_err();
        assert!(matches!(&error, ClientError::Language { status: got, .. } if *got == status), "{error:?}");
    }
}

#[test]
fn a_socket_that_is_held_open_for_a_daemon_that_is_not_there_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control.sock");
    let _held = UnixListener::bind(&socket).unwrap();
    let client = Client::new(&socket).with_patience(Duration::from_millis(50));
    let late = run(client.status()).unwrap_err();
    assert!(matches!(late, ClientError::Late { .. }) && late.is_away(), "{late:?}");
    assert!(run(Client::new("/nonexistent/control.sock").status()).unwrap_err().is_away());
    let (_service, refusing) = answering(422, golden("Problem"));
    assert!(!run(refusing.status()).unwrap_err().is_away());
}

#[test]
fn a_stream_gives_each_line_and_then_ends() {
    let mut body = golden_line("AuditRecord");
    body.extend(b"\n");
    body.extend(golden_line("AuditRecord"));
    body.pop();
    let (_service, client) = answering(200, body);
    run(async {
        let mut lines = client.audit_log(None, Tail::Stop).await.unwrap();
        assert_eq!(lines.next().await.unwrap().unwrap().seq, 43);
        assert_eq!(lines.next().await.unwrap().unwrap().seq, 43);
        assert!(lines.next().await.unwrap().is_none());
    });
}

#[test]
fn an_endless_line_is_refused() {
    let (_service, client) = answering(200, vec![b'x'; LINE_MAX + 1024 * 1024]);
    run(async {
        let mut lines = client.events(None).await.unwrap();
        assert!(matches!(lines.next().await, Err(ClientError::TooLarge { .. })));
    });
}

#[test]
fn a_bundle_is_length_envelope_files() {
    let (service, client) = answering(200, golden("Imported"));
    let content = vec![7_u8; 700_000];
    let bundle =
        Bundle { envelope: b"{}".to_vec(), length: 700_000, content: std::io::Cursor::new(content.clone()) };
    run(client.import(bundle)).unwrap();
    let received = service.received.lock().unwrap()[0].clone();
    assert_eq!(received.content_type, "application/vnd.turnout.bundle.v1");
    assert_eq!(&received.body[..6], b"\0\0\0\x02{}");
    assert_eq!(&received.body[6..], content);
}

#[test]
fn files_of_another_length_than_said_break_the_upload() {
    for length in [10, 12] {
        let (_service, client) = answering(200, golden("Imported"));
        let bundle = Bundle { envelope: Vec::new(), length, content: &b"eleven byte"[..] };
        let error = run(client.import(bundle)).unwrap_err();
        assert!(matches!(error, ClientError::Broken { .. }), "{error:?}");
    }
}
