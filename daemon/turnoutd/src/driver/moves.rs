//! Public ports follow the configuration, outside of releases: a release begins and ends on one port.

use super::{Denial, Driver};
use crate::chain;
use std::collections::BTreeSet;
use turnout_engine::Record;
use turnout_manifest::ModelName;

impl Driver {
    /// Moves each live model whose configured port is another than the one it is served on. One that is released, or has
    /// no worker at the moment, waits.
    pub(super) fn move_ports(&mut self) {
        if self.why_refusing().is_some() {
            return;
        }
        let settings = self.parts.executor.config.live.get();
        let world = &self.parts.world;
        let waits = |(name, port): &(&ModelName, &u16)| {
            world.models.get(name).is_some_and(|model| model.undisturbed().is_some() && model.port != **port)
        };
        let waiting = settings.model_ports.iter().filter(waits);
        let waiting: Vec<(ModelName, u16)> = waiting.map(|(name, port)| (name.clone(), *port)).collect();
        let mut stayed = BTreeSet::new();
        for (name, port) in waiting {
            let what = format!("{name}: cannot move to port {port}");
            if let Err(why) = self.move_port(&name, port) {
                self.staying.say(&what, &why);
                stayed.insert(what);
            }
        }
        self.staying.keep(|what| stayed.contains(what));
    }

    /// The old port refuses before the new one answers: it is written down that it is given up.
    fn move_port(&mut self, name: &ModelName, to: u16) -> Result<(), String> {
        let models = &self.parts.world.models;
        if let Some(other) = models.iter().find(|(other, model)| *other != name && model.port == to) {
            return Err(format!("it is `{}`'s", other.0));
        }
        let Some(from) = models.get(name).map(|model| model.port) else { return Ok(()) };
        self.host().claim(&self.parts.executor.config.addresses(to)).map_err(|error| chain(&error))?;
        let moved = Record::PortMoved { model: name.clone(), from, to };
        self.write(vec![moved], None).map_err(|denial| match denial {
            Denial::ReadOnly(why) | Denial::TooLong(why) => why,
            Denial::Refusal(refusal) => refusal.to_string(),
        })?;
        self.free_ports();
        self.restore_route(name);
        Ok(())
    }

    /// Takes away the routes of ports that no model has: they would refuse for ever, or lead to whoever comes next.
    pub(super) fn free_ports(&self) {
        let given: BTreeSet<u16> = self.parts.world.models.values().map(|model| model.port).collect();
        let routed = self.host().routed().unwrap_or_else(|error| {
            tracing::error!("{}", chain(&error));
            Vec::new()
        });
        for port in routed.into_iter().filter(|port| !given.contains(port)) {
            let addresses = self.parts.executor.config.addresses(port);
            tracing::info!("port {port} is nobody's any more");
            match self.host().clear_route(&addresses) {
                Ok(()) => self.host().give_up(&addresses),
                Err(error) => tracing::error!("{}", chain(&error)),
            }
        }
    }
}
