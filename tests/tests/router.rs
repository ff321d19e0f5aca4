//! Releases that split by user, on the real kernel: through the router while they are split, past it before and after.
//! Every user keeps one version, no request fails, and only chosen users ever meet a bad version.

use anyhow::{Context, Result, ensure};
use std::fs;
use turnout_protocol::control::ReleaseState;
use turnout_scenarios::load::Load;
use turnout_scenarios::models::FIRST;
use turnout_scenarios::scenario::{LIMIT, Scene, play, until};
use turnout_scenarios::users::{Crowd, Met};

/// Users of the crowd, numbered in a row: a fifth of them is chosen to within a few.
const USERS: usize = 500;
const CHOSEN: usize = 100;
const CHOSEN_OFF: usize = 3;
/// A fifth of the users, until somebody says otherwise.
const FIFTH: &str = "\
strategy: {kind: user-hash, header: x-user-id}
steps: [{percent: 20}, {percent: 100}]
window: 1h
windows: {look_back: 1, consecutive: 1}
objectives: {error_rate: 0.05}
minimum_requests: 5
patience: 2h
on_breach: rollback
";
/// The same, judged by every window.
const JUDGED: &str = "\
strategy: {kind: user-hash, header: x-user-id}
steps: [{percent: 20}, {percent: 100}]
window: 1s
windows: {look_back: 1, consecutive: 1}
objectives: {error_rate: 0.02}
minimum_requests: 40
patience: 20s
on_breach: rollback
";

#[test]
fn users_keep_their_version_through_a_release_and_no_request_fails() {
    play("users", |scene| {
        scene.open_with(&["better"])?;
        let crowd = crowd(scene)?;
        everybody_again(&crowd, 2)?;
        scene.release("better", FIFTH)?;
        scene.at_step("observe at 20 %")?;
        fifth_of_users(&crowd)?;
        let status = scene.status()?;
        let router = status.router.context("no router runs")?;
        ensure!(router.to_candidate > 0 && router.refused + router.unanswered == 0, "{router:?}");
        seen_by_kernel(scene)?;
        scene.ctl.ok(&["release", "promote", "digits"])?;
        let release = scene.ended()?;
        ensure!(release.state == ReleaseState::Promoted, "{release:?}");
        everybody_again(&crowd, 2)?;
        // Past the router again: new connections never came to it, old ones have closed with their next answer.
        until("no client is left on the router", LIMIT, || {
            Ok(scene.status()?.router.filter(|router| router.connections == 0))
        })?;
        let met = scene.wait_for(crowd.finish());
        ensure!(met.failures.is_empty(), "{:?}", &met.failures[..met.failures.len().min(3)]);
        only_forward(&met, "better")
    });
}

#[test]
fn without_a_daemon_users_keep_their_version_and_the_next_one_goes_on() {
    play("users-alone", |scene| {
        scene.open_with(&["better"])?;
        let crowd = crowd(scene)?;
        everybody_again(&crowd, 1)?;
        scene.release("better", FIFTH)?;
        scene.at_step("observe at 20 %")?;
        fifth_of_users(&crowd)?;
        scene.instance.kill()?;
        everybody_again(&crowd, 6)?;
        fifth_of_users(&crowd)?;
        scene.instance.start()?;
        scene.at_step("observe at 20 %")?;
        everybody_again(&crowd, 2)?;
        scene.ctl.ok(&["release", "promote", "digits"])?;
        let release = scene.ended()?;
        ensure!(release.state == ReleaseState::Promoted, "{release:?}");
        everybody_again(&crowd, 2)?;
        let met = scene.wait_for(crowd.finish());
        ensure!(met.failures.is_empty(), "{:?}", &met.failures[..met.failures.len().min(3)]);
        only_forward(&met, "better")
    });
}

#[test]
fn only_chosen_users_ever_meet_a_bad_version() {
    play("users-bad", |scene| {
        scene.open_with(&["errors"])?;
        let crowd = crowd(scene)?;
        everybody_again(&crowd, 1)?;
        scene.release("errors", JUDGED)?;
        let release = scene.ended()?;
        ensure!(release.state == ReleaseState::RolledBack, "{release:?}");
        let cause = release.cause.context("no cause")?;
        ensure!(cause.starts_with("error rate"), "{cause}");
        everybody_again(&crowd, 2)?;
        let met = scene.wait_for(crowd.finish());
        ensure!(met.failures.is_empty(), "{:?}", &met.failures[..met.failures.len().min(3)]);
        let mut chosen = 0;
        for (user, stretches) in met.users.iter().enumerate() {
            let versions: Vec<&str> = stretches.iter().map(|stretch| stretch.version.as_str()).collect();
            let errors: u64 = stretches
                .iter()
                .filter(|stretch| stretch.version == FIRST)
                .map(|stretch| stretch.errors)
                .sum();
            ensure!(errors == 0, "user {user} had errors from the good version: {stretches:?}");
            match versions.as_slice() {
                [FIRST] => {}
                [FIRST, "errors", FIRST] => chosen += 1,
                other => anyhow::bail!("user {user} met {other:?}"),
            }
        }
        ensure!(chosen > 0 && chosen <= CHOSEN + CHOSEN_OFF, "{chosen} users met the bad version");
        Ok(())
    });
}

#[test]
fn a_router_that_dies_sends_everybody_home() {
    play("users-router", |scene| {
        scene.open_with(&["better"])?;
        let crowd = crowd(scene)?;
        scene.release("better", FIFTH)?;
        scene.at_step("observe at 20 %")?;
        fifth_of_users(&crowd)?;
        kill_the_router(scene)?;
        let release = scene.ended()?;
        ensure!(release.state == ReleaseState::RolledBack, "{release:?}");
        let cause = release.cause.context("no cause")?;
        ensure!(cause.starts_with("the router died"), "{cause}");
        everybody_again(&crowd, 2)?;
        let met = crowd.met();
        // Requests that the router had in hand are lost with it: at most one for each connection.
        ensure!(met.failures.len() <= scene.load()?.connections, "{:?}", met.failures);
        ensure!(met.last().iter().all(|version| *version == FIRST), "somebody is not home");
        // The next release has a router again.
        scene.release("better", JUDGED)?;
        let release = scene.ended()?;
        ensure!(release.state == ReleaseState::Promoted, "{release:?}");
        let lost = met.failures.len();
        let met = scene.wait_for(crowd.finish());
        ensure!(met.failures.len() == lost, "{:?}", met.failures);
        Ok(())
    });
}

fn crowd(scene: &Scene) -> Result<Crowd> {
    let load = Load { connections: 6, ..scene.load()? };
    Ok(scene.wait_for(async { Crowd::begin(&load, USERS) }))
}

/// Waits until every user has had this many more answers.
fn everybody_again(crowd: &Crowd, more: u64) -> Result<()> {
    let before = answers(&crowd.met());
    until("every user was answered again", LIMIT * 2, || {
        let now = answers(&crowd.met());
        Ok(now.iter().zip(&before).all(|(now, before)| *now >= before + more).then_some(()))
    })
}

fn answers(met: &Met) -> Vec<u64> {
    met.users.iter().map(|stretches| stretches.iter().map(|stretch| stretch.answers).sum()).collect()
}

/// Connections that clients kept to the old version end within their bounded life; then a fifth is at the new one.
fn fifth_of_users(crowd: &Crowd) -> Result<()> {
    let chosen = |met: &Met| met.last().iter().filter(|version| **version == "better").count();
    until("a fifth of the users meets the new version", LIMIT * 2, || {
        Ok((chosen(&crowd.met()).abs_diff(CHOSEN) <= CHOSEN_OFF).then_some(()))
    })?;
    everybody_again(crowd, 2)?;
    let chosen = chosen(&crowd.met());
    ensure!(chosen.abs_diff(CHOSEN) <= CHOSEN_OFF, "{chosen} users of {USERS} at 20 %");
    Ok(())
}

/// Nobody went back and forth.
fn only_forward(met: &Met, to: &str) -> Result<()> {
    for (user, stretches) in met.users.iter().enumerate() {
        let versions: Vec<&str> = stretches.iter().map(|stretch| stretch.version.as_str()).collect();
        ensure!(versions == [FIRST, to], "user {user} met {versions:?}");
    }
    Ok(())
}

/// The kernel counts what the router takes to each version as it counts everything else.
fn seen_by_kernel(scene: &Scene) -> Result<()> {
    until("the kernel sees both versions", LIMIT, || {
        let versions = scene.digits()?.map(|model| model.versions).unwrap_or_default();
        let share = |version: &str| {
            let seen = versions.iter().find(|live| live.version.as_str() == version).map(|live| &live.seen);
            seen.filter(|seen| seen.requests > 50).map(|seen| seen.share_thousandths)
        };
        let Some(new) = share("better").or_else(|| share(FIRST).map(|old| 100_000 - old)) else {
            return Ok(None);
        };
        Ok((10_000..30_000).contains(&new).then_some(()))
    })
}

fn kill_the_router(scene: &Scene) -> Result<()> {
    for cell in fs::read_dir(scene.instance.cgroup())?.flatten() {
        let processes = fs::read_to_string(cell.path().join("cgroup.procs")).unwrap_or_default();
        for pid in processes.lines() {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if name.trim() == "turnout-router" || name.trim() == "router" {
                return fs::write(cell.path().join("cgroup.kill"), "1").context("cannot kill the router");
            }
        }
    }
    anyhow::bail!("no router runs")
}
