//! The router over real sockets, between clients and workers that misbehave. Workers are written by hand, byte by byte.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test, in its helpers too")]

mod scene;

use scene::{Manners, Scene, Talk};
use std::io::{Read, Write};
use turnout_manifest::Percent;
use turnout_manifest::plan::Strategy;

fn by_user(share: u32) -> (Strategy, Percent) {
    let strategy = Strategy::UserHash { header: "x-user-id".parse().unwrap() };
    (strategy, Percent::from_thousandths(share).unwrap())
}

#[test]
fn each_user_meets_one_version_over_one_shared_connection() {
    let scene = Scene::start(by_user(30_000), [Manners::Answer, Manners::Answer]);
    let mut client = scene.client();
    let mut first = Vec::new();
    for _ in 0..3 {
        let met: Vec<String> = (0..200).map(|user| client.ask_as(&format!("user-{user}")).body).collect();
        let new = met.iter().filter(|body| *body == "new").count();
        assert!(new.abs_diff(60) <= 3, "{new} of 200 users at 30 %");
        if first.is_empty() {
            first = met;
        } else {
            assert_eq!(first, met, "a user changed versions");
        }
    }
    assert_eq!(scene.new.connections() + scene.old.connections(), 2, "connections to workers are kept");
    let stats = scene.stats();
    assert_eq!((stats.to_candidate + stats.to_stable, stats.connections), (600, 1));
}

#[test]
fn a_request_without_its_key_meets_the_old_version() {
    let scene = Scene::start(by_user(99_000), [Manners::Answer, Manners::Answer]);
    let mut client = scene.client();
    for _ in 0..20 {
        assert_eq!(client.ask("").body, "old");
    }
}

#[test]
fn a_change_of_routes_holds_for_the_next_request_and_home_closes_connections() {
    let scene = Scene::start(by_user(0), [Manners::Answer, Manners::Answer]);
    let mut client = scene.client();
    assert_eq!(client.ask_as("a").body, "old");
    scene.route(by_user(99_999));
    assert_eq!(client.ask_as("a").body, "new");
    scene.home_to_old();
    let last = client.ask_as("a");
    assert_eq!(last.body, "old");
    assert!(last.head.contains("connection: close"), "{}", last.head);
    assert!(client.is_closed());
}

#[test]
fn headers_of_one_connection_stay_on_it_and_the_others_pass() {
    let scene = Scene::start(by_user(0), [Manners::Answer, Manners::Echo]);
    let mut client = scene.client();
    let seen = client.talk(
        "GET http://model.example/v2?x=1 HTTP/1.1\r\nHost: other\r\nConnection: x-private, keep-alive\r\n\
         X-Private: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nUpgrade: h2c\r\nProxy-Authorization: y\r\n\
         Accept: */*\r\nX-User-Id: u\r\n\r\n",
    );
    let asked = seen.body.to_ascii_lowercase();
    assert!(asked.starts_with("get /v2?x=1 http/1.1\r\n"), "{asked}");
    for kept in ["host: model.example", "accept: */*", "x-user-id: u", "via: 1.1 turnout"] {
        assert!(asked.contains(&format!("\r\n{kept}\r\n")), "`{kept}` in {asked}");
    }
    for gone in ["x-private", "keep-alive", "te:", "upgrade", "proxy-authorization", "other"] {
        assert!(!asked.contains(gone), "`{gone}` in {asked}");
    }
    assert!(!seen.head.contains("x-of-connection"), "{}", seen.head);
    assert!(seen.head.contains("x-kept: 1"), "{}", seen.head);
}

#[test]
fn bodies_stream_both_ways_with_either_framing() {
    let scene = Scene::start(by_user(0), [Manners::Answer, Manners::EchoBody]);
    let mut client = scene.client();
    let body = "x".repeat(300_000);
    let sized = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    assert_eq!(client.talk(&sized).body.len(), body.len());
    let chunked = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
    assert_eq!(client.talk(chunked).body, "abcde");
    assert_eq!(client.talk("GET / HTTP/1.1\r\nHost: x\r\n\r\n").body, "");
    assert_eq!(scene.old.connections(), 1);
}

#[test]
fn what_two_servers_could_read_differently_is_refused_and_reaches_no_version() {
    for smuggled in [
        "Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
        "Content-Length: +4\r\n\r\nabcd",
        "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "Host: y\r\n\r\n",
        "X: a\r\n folded\r\n\r\n",
    ] {
        let scene = Scene::start(by_user(0), [Manners::Answer, Manners::Answer]);
        let mut client = scene.client();
        let answer = client.talk(&format!("POST / HTTP/1.1\r\nHost: x\r\n{smuggled}"));
        assert!(["400", "501"].contains(&answer.status()), "{smuggled:?}: {}", answer.head);
        assert_eq!(scene.old.requests(), 0, "{smuggled:?}");
        assert!(client.is_closed(), "{smuggled:?}");
    }
}

#[test]
fn a_length_beside_a_coding_frames_nothing_and_what_follows_is_not_read() {
    for lengths in
        ["Transfer-Encoding: chunked\r\nContent-Length: 3", "Content-Length: 3\r\nTransfer-Encoding: chunked"]
    {
        let scene = Scene::start(by_user(0), [Manners::Answer, Manners::EchoBody]);
        let mut client = scene.client();
        let smuggled = "2\r\nab\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
        let answer = client.talk(&format!("POST / HTTP/1.1\r\nHost: x\r\n{lengths}\r\n\r\n{smuggled}"));
        assert!(answer.body == "ab" || answer.status() == "400", "{}", answer.head);
        assert!(client.is_closed(), "{lengths:?}");
        assert!(scene.old.requests() <= 1, "{lengths:?}");
    }
}

#[test]
fn heads_beyond_the_limits_are_refused() {
    for head in [
        format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(70_000)),
        format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: a\r\n".repeat(120)),
    ] {
        let scene = Scene::start(by_user(0), [Manners::Answer, Manners::Answer]);
        assert_eq!(scene.client().talk(&head).status(), "431");
        assert_eq!(scene.old.requests(), 0);
    }
}

#[test]
fn a_candidate_that_takes_no_connection_is_stood_in_for() {
    let scene = Scene::start(by_user(99_999), [Manners::Gone, Manners::Answer]);
    let mut client = scene.client();
    for user in 0..50 {
        assert_eq!(client.ask_as(&format!("u{user}")).body, "old");
    }
    let stats = scene.stats();
    assert_eq!((stats.stood_in, stats.to_candidate, stats.unanswered), (50, 0, 0));
}

#[test]
fn an_idle_connection_that_the_worker_closed_costs_no_request() {
    let scene = Scene::start(by_user(0), [Manners::Answer, Manners::AnswerThenClose]);
    let mut client = scene.client();
    for number in 1..=30 {
        assert_eq!(client.ask("").status(), "200");
        scene.old.until_closed(number);
    }
    assert_eq!((scene.old.requests(), scene.old.connections()), (30, 30));
}

#[test]
fn a_request_that_a_worker_had_is_never_sent_again() {
    for manners in [Manners::ReadThenClose, Manners::Garbage] {
        let scene = Scene::start(by_user(99_999), [manners, Manners::Answer]);
        let answer = scene.client().ask_as("a");
        assert_eq!(answer.status(), "502", "{manners:?}");
        assert!(answer.body.contains("error"), "{}", answer.body);
        assert_eq!((scene.new.requests(), scene.old.requests()), (1, 0), "{manners:?}");
    }
}

#[test]
fn an_answer_that_breaks_off_breaks_off_for_the_client_too() {
    let scene = Scene::start(by_user(0), [Manners::Answer, Manners::HalfAnswer]);
    let mut client = scene.client();
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut all = Vec::new();
    client.stream.read_to_end(&mut all).unwrap();
    let text = String::from_utf8_lossy(&all);
    assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("half"), "{text}");
}

#[test]
fn clients_that_hang_up_poison_no_connection() {
    let scene = Scene::start(by_user(0), [Manners::Answer, Manners::Slow]);
    for _ in 0..40 {
        let mut client = scene.client();
        client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        client.send("GET /next HTTP/1.1\r\nHost: x\r\n");
        // Gone between the request and its answer.
    }
    let mut clients: Vec<Talk> = (0..8).map(|_| scene.client()).collect();
    for round in 0..3 {
        for (number, client) in clients.iter_mut().enumerate() {
            let asked = format!("{round}-{number}");
            let answer = client.talk(&format!("GET /{asked} HTTP/1.1\r\nHost: x\r\n\r\n"));
            assert_eq!(answer.body, format!("/{asked}"), "an answer of somebody else");
        }
    }
    drop(clients);
    scene.until(|stats| stats.connections == 0);
}

#[test]
fn a_client_that_goes_away_in_the_middle_of_an_answer_poisons_no_connection() {
    let scene = Scene::start(by_user(0), [Manners::Answer, Manners::Large]);
    for _ in 0..10 {
        let mut client = scene.client();
        client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        client.stream.read_exact(&mut [0; 1000]).unwrap();
    }
    let whole = scene.client().talk("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(whole.body.len(), scene::LARGE);
}

#[test]
fn a_port_without_a_route_is_answered_and_closed() {
    let scene = Scene::without_routes();
    let mut client = scene.client();
    let answer = client.ask("");
    assert_eq!((answer.status(), scene.stats().refused), ("503", 1));
    assert!(client.is_closed());
}

#[test]
fn a_request_in_pieces_and_many_in_one_segment_are_all_answered() {
    let scene = Scene::start(by_user(0), [Manners::Answer, Manners::Slow]);
    let mut client = scene.client();
    for byte in b"GET /slowly HTTP/1.1\r\nHost: x\r\n\r\n" {
        client.stream.write_all(&[*byte]).unwrap();
    }
    assert_eq!(client.read().body, "/slowly");
    let many: String = (0..5).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: x\r\n\r\n")).collect();
    client.send(&many);
    for number in 0..5 {
        assert_eq!(client.read().body, format!("/{number}"));
    }
}
