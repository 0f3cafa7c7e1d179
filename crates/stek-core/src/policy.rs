//! What an operator may ask of a keyset: periods, lifetimes and the relations between them. A
//! [`Policy`] that exists is sound; nobody checks it again.

use crate::time::Seconds;

/// The most live keys that a policy may lead to; bounds bundles and what a terminator holds.
pub const MAX_PLANNED_KEYS: u64 = 200;

/// Limits of each field, both ends included.
pub const ROTATION_PERIOD_LIMITS: (Seconds, Seconds) = (Seconds::new(10), Seconds::from_hours(24));
/// The upper end is that of RFC 8446, 4.6.1 (now RFC 9846): a ticket lives at most seven days.
pub const TICKET_LIFETIME_LIMITS: (Seconds, Seconds) = (Seconds::new(10), Seconds::from_days(7));
/// The upper end also bounds how far a poller backs off.
pub const POLL_INTERVAL_LIMITS: (Seconds, Seconds) = (Seconds::new(1), Seconds::from_minutes(5));
/// How far apart two clocks of the fleet may be.
pub const CLOCK_SKEW_LIMITS: (Seconds, Seconds) = (Seconds::new(1), Seconds::from_minutes(10));
/// The longest session lifetime.
pub const SESSION_LIFETIME_MAX: Seconds = Seconds::from_days(7);

/// Whom the activation of a key waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ActivationQuorum {
    /// All instances that have polled twice since the key was published and still lack it; until
    /// the activation deadline.
    #[default]
    All,
    /// Nobody: a key that has been out for its lead activates.
    Off,
}

impl ActivationQuorum {
    /// The quorum as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Off => "off",
        }
    }

    /// The quorum of this name, if there is one.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::All, Self::Off].into_iter().find(|quorum| quorum.as_str() == text)
    }
}

/// What was asked for; a field left out takes its default from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PolicyRequest {
    /// How long one key seals; 10 s to 24 h, 6 h if left out.
    pub rotation_period: Option<Seconds>,
    /// How long a ticket opens after it was issued; 10 s to 7 d, 6 h if left out.
    pub ticket_lifetime: Option<Seconds>,
    /// How often a terminator asks; 1 s to 5 min, a tenth of the rotation period and at most 60 s
    /// if left out.
    pub poll_interval: Option<Seconds>,
    /// How far apart clocks may be; 1 s to 10 min, default as for the poll interval.
    pub clock_skew: Option<Seconds>,
    /// How long before activation a key is published; the rotation period if left out.
    pub lead: Option<Seconds>,
    /// The longest time since a full handshake that any chain of resumptions may last; 24 h, or
    /// the ticket lifetime if that is longer, if left out.
    pub session_lifetime: Option<Seconds>,
    /// Whom the activation of a key waits for; all if left out.
    pub activation_quorum: Option<ActivationQuorum>,
    /// How much later than planned a key may activate because instances lack it;
    /// `poll_interval + clock_skew + 2 s` to one lead, the lead if left out.
    pub activation_deadline: Option<Seconds>,
}

/// A policy whose relations hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Policy {
    rotation_period: Seconds,
    ticket_lifetime: Seconds,
    poll_interval: Seconds,
    clock_skew: Seconds,
    lead: Seconds,
    session_lifetime: Seconds,
    activation_quorum: ActivationQuorum,
    activation_deadline: Seconds,
}

/// A relation that the asked policy breaks; names the fields, their values and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A field lies outside its limits.
    #[error("{field} is {value}, allowed is {min} to {max}")]
    OutOfLimits {
        /// The field's name.
        field: &'static str,
        /// What was asked.
        value: Seconds,
        /// The least allowed.
        min: Seconds,
        /// The most allowed.
        max: Seconds,
    },
    /// The lead leaves too little time to deliver a key before it seals.
    #[error(
        "lead is {lead}, must be at least 4 × poll_interval ({poll_interval}) + 2 × clock_skew \
         ({clock_skew}) = {min}"
    )]
    LeadTooShort {
        /// What was asked.
        lead: Seconds,
        /// The poll interval that it must allow for.
        poll_interval: Seconds,
        /// The clock skew that it must allow for.
        clock_skew: Seconds,
        /// The least lead with these.
        min: Seconds,
    },
    /// The lead spans more than three rotations.
    #[error("lead is {lead}, must be at most 3 × rotation_period ({rotation_period}) = {max}")]
    LeadTooLong {
        /// What was asked.
        lead: Seconds,
        /// The rotation period beside it.
        rotation_period: Seconds,
        /// The most with this rotation period.
        max: Seconds,
    },
    /// Too many keys would be live at once.
    #[error(
        "(lead {lead} + ticket_lifetime {ticket_lifetime} + clock_skew {clock_skew}) / \
         rotation_period {rotation_period} = {keys} live keys, allowed are {MAX_PLANNED_KEYS}"
    )]
    TooManyKeys {
        /// The lead asked.
        lead: Seconds,
        /// The ticket lifetime asked.
        ticket_lifetime: Seconds,
        /// The clock skew asked.
        clock_skew: Seconds,
        /// The rotation period asked.
        rotation_period: Seconds,
        /// How many keys that makes, rounded up.
        keys: u64,
    },
}

impl PolicyError {
    /// The field to change first.
    pub fn field(&self) -> &'static str {
        match self {
            Self::OutOfLimits { field, .. } => field,
            Self::LeadTooShort { .. } | Self::LeadTooLong { .. } => "lead",
            Self::TooManyKeys { .. } => "rotation_period",
        }
    }

    /// What was asked for in that field.
    pub fn value(&self) -> Seconds {
        match self {
            Self::OutOfLimits { value, .. } => *value,
            Self::LeadTooShort { lead, .. } | Self::LeadTooLong { lead, .. } => *lead,
            Self::TooManyKeys { rotation_period, .. } => *rotation_period,
        }
    }

    /// What is allowed there, the other fields being what they are.
    pub fn allowed(&self) -> String {
        match self {
            Self::OutOfLimits { min, max, .. } => format!("{min} to {max}"),
            Self::LeadTooShort { poll_interval, clock_skew, min, .. } => format!(
                "at least {min}, which is 4 × poll_interval ({poll_interval}) + 2 × clock_skew \
                 ({clock_skew})"
            ),
            Self::LeadTooLong { rotation_period, max, .. } => {
                format!("at most {max}, which is 3 × rotation_period ({rotation_period})")
            }
            Self::TooManyKeys { lead, ticket_lifetime, clock_skew, .. } => format!(
                "at least 1/{MAX_PLANNED_KEYS} of lead ({lead}) + ticket_lifetime \
                 ({ticket_lifetime}) + clock_skew ({clock_skew})"
            ),
        }
    }
}

impl Default for Policy {
    /// What an operator gets who asks for nothing.
    fn default() -> Self {
        Self::try_new(&PolicyRequest::default()).expect("the defaults hold every relation")
    }
}

impl Policy {
    /// Fills in the defaults and proves the relations.
    ///
    /// # Errors
    /// [`PolicyError`], the first relation that breaks.
    pub fn try_new(asked: &PolicyRequest) -> Result<Self, PolicyError> {
        let rotation_period = asked.rotation_period.unwrap_or(Seconds::from_hours(6));
        let ticket_lifetime = asked.ticket_lifetime.unwrap_or(Seconds::from_hours(6));
        let tenth = Seconds::new(rotation_period.as_secs() / 10);
        let tenth = tenth.clamp(Seconds::new(1), Seconds::new(60));
        let session_default = Seconds::from_hours(24).max(ticket_lifetime);
        let lead = asked.lead.unwrap_or(rotation_period);
        let policy = Self {
            rotation_period,
            ticket_lifetime,
            poll_interval: asked.poll_interval.unwrap_or(tenth),
            clock_skew: asked.clock_skew.unwrap_or(tenth),
            lead,
            session_lifetime: asked.session_lifetime.unwrap_or(session_default),
            activation_quorum: asked.activation_quorum.unwrap_or_default(),
            activation_deadline: asked.activation_deadline.unwrap_or(lead),
        };
        policy.check_limits()?;
        policy.check_relations()?;
        Ok(policy)
    }

    fn check_limits(&self) -> Result<(), PolicyError> {
        let session_limits = (self.ticket_lifetime, SESSION_LIFETIME_MAX);
        for (field, value, (min, max)) in [
            ("rotation_period", self.rotation_period, ROTATION_PERIOD_LIMITS),
            ("ticket_lifetime", self.ticket_lifetime, TICKET_LIFETIME_LIMITS),
            ("poll_interval", self.poll_interval, POLL_INTERVAL_LIMITS),
            ("clock_skew", self.clock_skew, CLOCK_SKEW_LIMITS),
            ("session_lifetime", self.session_lifetime, session_limits),
        ] {
            if value < min || value > max {
                return Err(PolicyError::OutOfLimits { field, value, min, max });
            }
        }
        Ok(())
    }

    fn check_relations(&self) -> Result<(), PolicyError> {
        let Self { lead, poll_interval, clock_skew, rotation_period, ticket_lifetime, .. } = *self;
        let min = poll_interval.times(4) + clock_skew.times(2);
        if lead < min {
            return Err(PolicyError::LeadTooShort { lead, poll_interval, clock_skew, min });
        }
        let max = rotation_period.times(3);
        if lead > max {
            return Err(PolicyError::LeadTooLong { lead, rotation_period, max });
        }
        let span = lead + ticket_lifetime + clock_skew;
        let keys = span.as_secs().div_ceil(rotation_period.as_secs());
        if keys > MAX_PLANNED_KEYS {
            return Err(PolicyError::TooManyKeys {
                lead,
                ticket_lifetime,
                clock_skew,
                rotation_period,
                keys,
            });
        }
        // After the relations, for the limits are made of what they bound.
        let (field, value) = ("activation_deadline", self.activation_deadline);
        let (min, max) = (self.postpone_margin(), lead);
        if value < min || value > max {
            return Err(PolicyError::OutOfLimits { field, value, min, max });
        }
        Ok(())
    }

    /// How long one key seals.
    pub fn rotation_period(&self) -> Seconds {
        self.rotation_period
    }

    /// How long a ticket opens after it was issued.
    pub fn ticket_lifetime(&self) -> Seconds {
        self.ticket_lifetime
    }

    /// How often a terminator asks, and the longest it backs off.
    pub fn poll_interval(&self) -> Seconds {
        self.poll_interval
    }

    /// How far apart two clocks of the fleet may be.
    pub fn clock_skew(&self) -> Seconds {
        self.clock_skew
    }

    /// How long before activation a key is published.
    pub fn lead(&self) -> Seconds {
        self.lead
    }

    /// The longest time since a full handshake that any chain of resumptions may last.
    pub fn session_lifetime(&self) -> Seconds {
        self.session_lifetime
    }

    /// Whom the activation of a key waits for.
    pub fn activation_quorum(&self) -> ActivationQuorum {
        self.activation_quorum
    }

    /// How much later than planned a key may activate because instances lack it. Applies at once, as
    /// the quorum does, also to keys that are published; but the envelope of a key allows no more
    /// than the lead under which it was minted.
    pub fn activation_deadline(&self) -> Seconds {
        self.activation_deadline
    }

    /// How long a key must have been out before it seals when there was no time for the lead:
    /// `2 × poll_interval + clock_skew`.
    pub fn urgent_lead(&self) -> Seconds {
        self.poll_interval.times(2) + self.clock_skew
    }

    /// How long before a boundary the planner decides whether to postpone it:
    /// `poll_interval + clock_skew + 2 s`, the time in which the fleet still learns of it.
    pub fn postpone_margin(&self) -> Seconds {
        self.poll_interval + self.clock_skew + Seconds::new(2)
    }
}

#[cfg(test)]
mod tests;
