//! Visits every world that can be reached, each once.

use std::collections::HashSet;
use std::fmt::{Debug, Write as _};
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};

/// A world that a search can walk through.
pub(crate) trait Explored: Clone + Hash {
    type Config;
    type Action: Copy + Debug;

    fn new(config: &Self::Config) -> Result<Self, String>;
    /// All that may happen now.
    fn actions(&self, config: &Self::Config) -> Vec<Self::Action>;
    /// Takes a step; says what must hold and does not.
    fn step(&mut self, config: &Self::Config, action: Self::Action) -> Result<(), String>;
    fn is_over(&self) -> bool;
    /// A step from here to `after`, for people; nothing where it is not worth telling.
    fn tell(&self, action: Self::Action, after: &Self) -> Option<String>;
}

/// The fingerprints are as good as random already.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only fingerprints are stored");
    }

    fn write_u64(&mut self, fingerprint: u64) {
        self.0 = fingerprint;
    }
}

/// How a world was reached, to tell the way to a counterexample.
struct Node<A> {
    parent: u32,
    action: Option<A>,
}

/// What a search found.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) states: usize,
    pub(crate) steps: usize,
    /// Worlds in which everything is over.
    pub(crate) ends: usize,
    pub(crate) counterexample: Option<String>,
}

fn fingerprint(world: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

/// Searches, and stops at the first counterexample.
pub(crate) fn search<W: Explored>(config: &W::Config) -> Report {
    let mut report = Report { states: 1, steps: 0, ends: 0, counterexample: None };
    let root = match W::new(config) {
        Ok(world) => world,
        Err(wrong) => return Report { counterexample: Some(wrong), ..report },
    };
    let mut seen: HashSet<u64, BuildHasherDefault<Identity>> = HashSet::default();
    seen.insert(fingerprint(&root));
    let mut nodes = vec![Node { parent: 0, action: None }];
    let mut open = vec![(root, 0_u32)];
    while let Some((world, at)) = open.pop() {
        let actions = world.actions(config);
        if world.is_over() {
            report.ends += 1;
        } else if actions.is_empty() {
            let wrong = "everybody waits for ever";
            report.counterexample = Some(tell::<W>(config, &nodes, at, None, wrong));
            return report;
        }
        for action in actions {
            report.steps += 1;
            let mut next = world.clone();
            if let Err(wrong) = next.step(config, action) {
                report.counterexample = Some(tell::<W>(config, &nodes, at, Some(action), &wrong));
                return report;
            }
            if seen.insert(fingerprint(&next)) {
                report.states += 1;
                let node = u32::try_from(nodes.len()).expect("fewer");
                nodes.push(Node { parent: at, action: Some(action) });
                open.push((next, node));
            }
        }
    }
    report
}

/// The way to a counterexample, step by step.
fn tell<W: Explored>(
    config: &W::Config,
    nodes: &[Node<W::Action>],
    at: u32,
    last: Option<W::Action>,
    wrong: &str,
) -> String {
    let mut way: Vec<_> = last.into_iter().collect();
    let mut at = at;
    while at != 0 {
        let node = &nodes[at as usize];
        way.extend(node.action);
        at = node.parent;
    }
    let mut text = format!("{wrong}\n");
    let Ok(mut world) = W::new(config) else { return text };
    for action in way.into_iter().rev() {
        let before = world.clone();
        let _ = world.step(config, action);
        if let Some(told) = before.tell(action, &world) {
            let _ = writeln!(text, "{told}");
        }
    }
    text
}
