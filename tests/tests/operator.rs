//! What an operator can do to a release under way and after it, with traffic flowing: pause, resume, promote, roll back,
//! and roll back again.

use anyhow::{Context, Result, ensure};
use turnout_protocol::control::{ReleaseState, ReleaseStatus};
use turnout_scenarios::models::FIRST;
use turnout_scenarios::scenario::{CANARY, LIMIT, Scene, play, until};

/// A canary that waits for an operator at each share.
const PATIENT: &str = "\
strategy: {kind: weight}
steps: [{percent: 20}, {percent: 60}, {percent: 100}]
window: 1h
patience: 2h
";
#[test]
fn a_canary_obeys_pause_resume_promote_and_rollback() {
    play("operator", |scene| {
        scene.open_with(&["better"])?;
        let traffic = scene.traffic()?;
        // Promoted from share to share, to the end.
        scene.release("better", PATIENT)?;
        for share in ["20 %", "60 %"] {
            let release = scene.at_step(&format!("observe at {share}"))?;
            ensure!(release.asked.to_string() == share, "{release:?}");
            scene.ctl.ok(&["release", "promote", "digits", "--reason", "looks good"])?;
        }
        expect_end(scene, ReleaseState::Promoted, "better")?;
        // Back to the version before; once more changes nothing.
        for _ in 0..2 {
            scene.ctl.ok(&["rollback", "digits", "--wait"])?;
            expect_live(scene, FIRST)?;
        }
        // Out of the middle, held or not; once more changes nothing.
        for held in [false, true] {
            scene.release("better", PATIENT)?;
            scene.at_step("observe at 20 %")?;
            if held {
                let paused = scene.ctl.ok(&["release", "pause", "digits"])?;
                ensure!(paused.text("/state")? == "paused", "{}", paused.value);
            }
            scene.ctl.ok(&["rollback", "digits", "--wait", "--reason", "try"])?;
            let release = expect_end(scene, ReleaseState::RolledBack, "better")?;
            ensure!(release.cause.as_deref().is_some_and(|cause| cause.contains("try")), "{release:?}");
            scene.ctl.ok(&["rollback", "digits", "--wait"])?;
            let again = scene.last_release()?.context("no release")?;
            ensure!(again.release_id == release.release_id, "a second rollback began something: {again:?}");
            expect_live(scene, FIRST)?;
        }
        scene.finish_whole(traffic).map(drop)
    });
}

#[test]
fn a_held_release_stays_until_it_is_resumed() {
    play("held", |scene| {
        scene.open_with(&["better"])?;
        scene.release("better", CANARY)?;
        // Without traffic every window is insufficient: there is time to hold it.
        scene.at_step("observe at 50 %")?;
        scene.ctl.ok(&["release", "pause", "digits"])?;
        let traffic = scene.traffic()?;
        let held = until("windows are met while it is held", LIMIT, || {
            let release = scene.last_release()?.context("no release")?;
            let met = release.windows.iter().filter(|window| window.verdict == "met").count();
            Ok((met >= 2).then_some(release))
        })?;
        ensure!(held.state == ReleaseState::Paused && held.asked.to_string() == "50 %", "{held:?}");
        scene.ctl.ok(&["release", "resume", "digits"])?;
        expect_end(scene, ReleaseState::Promoted, "better")?;
        scene.finish_whole(traffic).map(drop)
    });
}

fn expect_end(scene: &Scene, state: ReleaseState, to: &str) -> Result<ReleaseStatus> {
    let release = scene.ended()?;
    ensure!(release.state == state && release.to.as_str() == to, "{release:?}");
    Ok(release)
}

/// One version alone is live, and has everything.
fn expect_live(scene: &Scene, version: &str) -> Result<()> {
    let versions = scene.digits()?.context("digits is gone")?.versions;
    let alone = versions.len() == 1 && versions[0].version.as_str() == version;
    ensure!(alone && versions[0].asked.to_string() == "100 %", "{versions:?}");
    Ok(())
}
