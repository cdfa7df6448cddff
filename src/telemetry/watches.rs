//! What the watches of a source see and suffer, for those who look: readiness, metrics, the admin page.
//!
//! The source writes, everybody else reads. It locks, and is therefore nothing for the path of a request.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// Every watch, how long changes wait until they are in force, and whether this replica leads.
#[derive(Debug, Default)]
pub struct Watches {
    board: Mutex<Board>,
    leads: OnceLock<Leads>,
}

/// Tells whether this replica leads now.
struct Leads(Box<dyn Fn() -> bool + Send + Sync>);

impl fmt::Debug for Leads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Leads").field(&(self.0)()).finish()
    }
}

#[derive(Debug, Default)]
struct Board {
    /// By kind and place: a namespace, `namespace/name` of a single object, empty where all namespaces are watched.
    watches: BTreeMap<(&'static str, String), Kind>,
    /// The first change that no compilation has begun with.
    changed: Option<Instant>,
    /// Compilations so far.
    revision: u64,
    /// The first change in each compilation that is not in force, by its revision.
    compiled: BTreeMap<u64, Instant>,
}

/// Compilations with changes that are told apart until they are in force.
const APART: usize = 16;

/// One watched kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Plural resource name in lower case, such as `ingresses`.
    pub kind: &'static str,
    /// The worst of its namespaces.
    pub state: State,
    /// Objects held.
    pub objects: usize,
    /// Lists that were begun after the first.
    pub restarts: u64,
    /// When the API server last sent something.
    pub last_event: Option<SystemTime>,
}

/// What a report made of the watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It worked, and fails now.
    Failed,
    /// It failed, and works now.
    Recovered,
    /// It is as it was.
    Same,
}

/// How a watch is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Everything was seen, and changes are followed.
    Synced,
    /// The first list has not come to its end.
    Listing,
    /// It does not work; what was seen before stays in force.
    Failing {
        /// When it began.
        since: SystemTime,
        /// What the API server said.
        reason: String,
        /// What to do about it.
        advice: String,
    },
}

impl State {
    /// One word for labels: `synced`, `listing` or `failing`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Synced => "synced",
            Self::Listing => "listing",
            Self::Failing { .. } => "failing",
        }
    }

    fn worse(self, other: Self) -> Self {
        match (&self, &other) {
            // What began first is likely the cause.
            (Self::Failing { since, .. }, Self::Failing { since: earlier, .. }) if earlier < since => other,
            (Self::Failing { .. }, _) | (Self::Listing, Self::Listing | Self::Synced) => self,
            _ => other,
        }
    }
}

impl Watches {
    /// Begins a watch of a kind in a namespace, of one object named as `namespace/name`, or of all when it is empty.
    pub fn watch(self: &Arc<Self>, kind: &'static str, place: &str) -> Watch {
        let key = (kind, place.to_owned());
        self.lock().watches.insert(key.clone(), Kind::new(kind));
        Watch { watches: Arc::clone(self), key }
    }

    /// Every kind once, sorted by name. Namespaces that are watched one by one are added up.
    pub fn snapshot(&self) -> Vec<Kind> {
        let mut kinds: Vec<Kind> = Vec::new();
        for watch in self.lock().watches.values().cloned() {
            match kinds.last_mut().filter(|last| last.kind == watch.kind) {
                Some(last) => {
                    last.objects += watch.objects;
                    last.restarts += watch.restarts;
                    last.last_event = last.last_event.max(watch.last_event);
                    last.state = std::mem::replace(&mut last.state, State::Synced).worse(watch.state);
                }
                None => kinds.push(watch),
            }
        }
        kinds
    }

    /// The API server follows a watch again that it had broken off: what was listed is current. Nothing else would show
    /// it while nothing changes. Says whether this is news.
    pub fn reopened(&self, kind: &str, place: &str) -> bool {
        let mut board = self.lock();
        let watch = board.watches.iter_mut().find(|((of, at), _)| *of == kind && at == place);
        watch.is_some_and(|(_, watch)| watch.last_event.is_some() && watch.works() == Turn::Recovered)
    }

    /// Age of the oldest change that is not yet in force; zero when there is none.
    pub fn lag(&self) -> Duration {
        let board = self.lock();
        let oldest = board.compiled.values().copied().chain(board.changed).min();
        oldest.map_or(Duration::ZERO, |at| at.elapsed())
    }

    /// There is an election, which `leads` asks about. Only the first is told of.
    pub fn elects(&self, leads: impl Fn() -> bool + Send + Sync + 'static) {
        let _second = self.leads.set(Leads(Box::new(leads)));
    }

    /// Whether this replica leads now; None without an election.
    pub fn leads(&self) -> Option<bool> {
        self.leads.get().map(|leads| (leads.0)())
    }

    /// A compilation begins: it sees every change up to now. Gives its revision, which grows from one.
    pub fn compiling(&self) -> u64 {
        let mut board = self.lock();
        board.revision += 1;
        let revision = board.revision;
        if let Some(changed) = board.changed.take() {
            // While nothing can be put in force this must not grow: the last wait together.
            let last = if board.compiled.len() < APART { None } else { board.compiled.pop_last() };
            board.compiled.insert(revision, last.map_or(changed, |(_, at)| at));
        }
        revision
    }

    /// What was compiled as `revision` is in force, with all before it; tells how long ago the first change in it came.
    pub fn in_force(&self, revision: u64) -> Option<Duration> {
        let mut board = self.lock();
        let later = board.compiled.split_off(&(revision + 1));
        let done = std::mem::replace(&mut board.compiled, later);
        done.into_values().min().map(|at| at.elapsed())
    }

    /// What was compiled as `revision` is what was compiled before it: its own changes have nothing to wait for.
    pub fn without_effect(&self, revision: u64) {
        self.lock().compiled.remove(&revision);
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pen of one watch.
#[derive(Debug)]
pub struct Watch {
    watches: Arc<Watches>,
    key: (&'static str, String),
}

impl Watch {
    /// A list begins, not for the first time.
    pub fn restarted(&self) {
        if let Some(kind) = self.watches.lock().watches.get_mut(&self.key) {
            kind.restarts += 1;
        }
    }

    /// Something came and `objects` are held now. The watch works.
    pub fn followed(&self, objects: usize) -> Turn {
        let mut board = self.watches.lock();
        board.changed.get_or_insert_with(Instant::now);
        let kind = board.watches.entry(self.key.clone()).or_insert_with(|| Kind::new(self.key.0));
        kind.objects = objects;
        kind.last_event = Some(SystemTime::now());
        kind.works()
    }

    /// The kind is done without, and not shown, until the watch works.
    pub fn withdrawn(&self) {
        self.watches.lock().watches.remove(&self.key);
    }

    /// The watch does not work.
    pub fn failed(&self, reason: String, advice: String) -> Turn {
        let mut board = self.watches.lock();
        let kind = board.watches.entry(self.key.clone()).or_insert_with(|| Kind::new(self.key.0));
        let (since, turn) = match &kind.state {
            State::Failing { since, .. } => (*since, Turn::Same),
            State::Synced | State::Listing => (SystemTime::now(), Turn::Failed),
        };
        kind.state = State::Failing { since, reason, advice };
        turn
    }
}

impl Kind {
    fn new(kind: &'static str) -> Self {
        Self { kind, state: State::Listing, objects: 0, restarts: 0, last_event: None }
    }

    fn works(&mut self) -> Turn {
        match std::mem::replace(&mut self.state, State::Synced) {
            State::Failing { .. } => Turn::Recovered,
            State::Synced | State::Listing => Turn::Same,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_as_well_as_the_worst_of_its_namespaces() {
        let watches = Arc::<Watches>::default();
        let (a, b, other) =
            (watches.watch("services", "a"), watches.watch("services", "b"), watches.watch("ingresses", ""));
        let states = || watches.snapshot().iter().map(|kind| (kind.kind, kind.state.name())).collect::<Vec<_>>();
        assert_eq!(states(), [("ingresses", "listing"), ("services", "listing")]);
        a.followed(2);
        other.followed(1);
        assert_eq!(states(), [("ingresses", "synced"), ("services", "listing")]);
        b.failed("no".to_owned(), "grant it".to_owned());
        assert_eq!(states(), [("ingresses", "synced"), ("services", "failing")]);
        b.restarted();
        b.followed(3);
        other.withdrawn();
        assert_eq!(states(), [("services", "synced")]);
        other.followed(1);
        let services = watches.snapshot().remove(1);
        assert_eq!((services.objects, services.restarts, services.state), (5, 1, State::Synced));
    }

    #[test]
    fn a_failure_keeps_its_beginning_while_it_lasts() {
        let watches = Arc::<Watches>::default();
        let watch = watches.watch("services", "");
        let since = || match watches.snapshot().remove(0).state {
            State::Failing { since, .. } => since,
            other => panic!("{other:?}"),
        };
        watch.failed("one".to_owned(), String::new());
        let first = since();
        watch.failed("two".to_owned(), String::new());
        assert_eq!(since(), first);
    }

    #[test]
    fn a_watch_that_is_followed_again_has_recovered() {
        let watches = Arc::<Watches>::default();
        let (all, one) = (watches.watch("services", ""), watches.watch("secrets", "shop/pair"));
        let failed = |watch: &Watch| watch.failed("no".to_owned(), String::new());
        assert_eq!((failed(&all), failed(&all)), (Turn::Failed, Turn::Same));
        assert!(!watches.reopened("services", ""), "it has not listed yet");
        assert_eq!(all.followed(1), Turn::Recovered);
        one.followed(1);
        assert_eq!((failed(&all), failed(&one)), (Turn::Failed, Turn::Failed));
        for (kind, place, is_news) in [
            ("services", "shop", false),
            ("secrets", "shop", false), // a watch of a single object is another one
            ("secrets", "shop/pair", true),
            ("services", "", true),
            ("services", "", false),
        ] {
            assert_eq!(watches.reopened(kind, place), is_news, "{kind} in {place:?}");
        }
        assert!(watches.snapshot().iter().all(|kind| kind.state == State::Synced));
    }

    #[test]
    fn a_change_ages_until_it_is_in_force() {
        let watches = Arc::<Watches>::default();
        let watch = watches.watch("services", "");
        assert_eq!(watches.lag(), Duration::ZERO);
        watch.followed(1);
        assert!(watches.lag() > Duration::ZERO);
        let first = watches.compiling();
        watch.followed(2);
        assert!(watches.lag() > Duration::ZERO);
        assert!(watches.in_force(first).is_some());
        assert!(watches.lag() > Duration::ZERO, "one came while the other was compiled");
        let second = watches.compiling();
        assert!(watches.in_force(second).is_some());
        assert_eq!((watches.lag(), watches.in_force(second)), (Duration::ZERO, None));
    }

    #[test]
    fn a_change_ages_while_the_build_before_it_is_put_in_force() {
        let watches = Arc::<Watches>::default();
        let watch = watches.watch("services", "");
        let build = || {
            watch.followed(1);
            watches.compiling()
        };
        let (first, second) = (build(), build());
        watches.in_force(first);
        assert!(watches.lag() > Duration::ZERO, "the second is not in force");
        let third = build();
        watches.without_effect(third);
        assert!(watches.lag() > Duration::ZERO, "the second is not in force yet");
        watches.in_force(second);
        assert_eq!(watches.lag(), Duration::ZERO);
    }

    #[test]
    fn changes_that_are_never_in_force_take_no_memory_and_age() {
        let watches = Arc::<Watches>::default();
        let watch = watches.watch("services", "");
        let mut last = 0;
        for _ in 0..10 * APART {
            watch.followed(1);
            last = watches.compiling();
        }
        assert_eq!(watches.lock().compiled.len(), APART);
        watches.in_force(last - 1);
        assert!(watches.lag() > Duration::ZERO);
        watches.in_force(last);
        assert_eq!(watches.lag(), Duration::ZERO);
    }
}
