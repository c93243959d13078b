package dev.pocketvlm.android

import dev.pocketvlm.bundle.oneLine

/** Processes that may die before a bundle counts as one that kills them: the system stops processes for memory too. */
internal const val PROBE_ATTEMPTS: Int = 2

/** What is known of a bundle on this device; kept in a file. */
internal sealed class ProbeState {
    /** [deaths]: processes that died so far, without a word. */
    class Unknown(val deaths: Int = 0) : ProbeState()

    /** Written before the process starts: who finds this later knows that nobody saw its end. */
    class Running(val deaths: Int) : ProbeState()

    object Works : ProbeState()

    class Fails(val reason: String) : ProbeState()
}

/** What happens to a probe. */
internal sealed class ProbeEvent {
    object Started : ProbeEvent()

    /** It loaded, and gave a token. */
    object Answered : ProbeEvent()

    /** A typed error that says something of the bundle or its engine. */
    class Failed(val reason: String) : ProbeEvent()

    /** What was no fault of the bundle, such as too little memory just now: nothing is known. */
    object Undecided : ProbeEvent()

    /** The process went without a word, or was found to have gone. */
    object Died : ProbeEvent()
}

/** The state behind an event. What is decided stays; an event that cannot come leaves the state as it is. */
internal fun ProbeState.after(event: ProbeEvent): ProbeState = when (this) {
    is ProbeState.Unknown -> if (event == ProbeEvent.Started) ProbeState.Running(deaths) else this
    is ProbeState.Running -> when (event) {
        ProbeEvent.Started -> this
        ProbeEvent.Answered -> ProbeState.Works
        ProbeEvent.Undecided -> ProbeState.Unknown(deaths)
        is ProbeEvent.Failed -> ProbeState.Fails(event.reason)
        ProbeEvent.Died -> if (deaths + 1 < PROBE_ATTEMPTS) ProbeState.Unknown(deaths + 1) else ProbeState.Fails(
            "its process ended ${deaths + 1} times before it answered",
        )
    }
    else -> this
}

/** One line. */
internal fun ProbeState.encoded(): String = when (this) {
    is ProbeState.Unknown -> "unknown $deaths"
    is ProbeState.Running -> "running $deaths"
    ProbeState.Works -> "works"
    is ProbeState.Fails -> "fails ${oneLine(reason, MAX_REASON)}"
}

/** What is not [encoded] means nothing is known: at worst a probe is run again. */
internal fun decodedProbe(line: String): ProbeState {
    val rest = line.substringAfter(' ', "")
    val deaths = rest.toIntOrNull()?.takeIf { it in 0 until PROBE_ATTEMPTS }
    return when (line.substringBefore(' ')) {
        "unknown" -> ProbeState.Unknown(deaths ?: 0)
        "running" -> ProbeState.Running(deaths ?: 0)
        "works" -> if (line == "works") ProbeState.Works else ProbeState.Unknown()
        "fails" -> if (rest.isEmpty()) ProbeState.Unknown() else ProbeState.Fails(oneLine(rest, MAX_REASON))
        else -> ProbeState.Unknown()
    }
}

private const val MAX_REASON = 300
