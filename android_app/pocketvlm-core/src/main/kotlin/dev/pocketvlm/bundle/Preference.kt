package dev.pocketvlm.bundle

/** A library of the system's: one of [names] has to lie in one of [places]. */
internal class DriverLibrary(val names: List<String>, val places: List<String>) {
    val paths: List<String> get() = places.flatMap { place -> names.map { "$place/$it" } }
}

/** An engine of a bundle and what it needs; what is empty asks for nothing. [versions]: the oldest. */
internal class PreferredEngine(
    val engine: String,
    val abis: List<String> = emptyList(),
    val chips: List<String> = emptyList(),
    val libraries: List<DriverLibrary> = emptyList(),
    val versions: Map<String, String> = emptyMap(),
)

/**
 * What decides about engines.
 *
 * @property engines those that the program which asks has at all
 * @property chip Android's `ro.soc.model`, null where nobody says it
 * @property abi as Android names it
 * @property versions of runtimes and drivers, null of one that is not there; of those that cannot be asked nothing
 * @property files paths of the system's libraries that are there
 * @property failed engine -> how it ended when it was tried here, in words
 */
internal class MachineFacts(
    val engines: Set<String>,
    val chip: String?,
    val abi: String,
    val versions: Map<String, String?> = emptyMap(),
    val files: Set<String> = emptySet(),
    val failed: Map<String, String> = emptyMap(),
)

/** The [engine] that runs, null where none does; [skipped] are better ones, each with why not. */
internal class EngineChoice(val engine: String?, val skipped: Map<String, String> = emptyMap())

/** The first engine that the machine has all of: the rule of `runtime/choice.py`, which `tests/golden/engines.json` holds. */
internal fun choose(engines: List<PreferredEngine>, machine: MachineFacts): EngineChoice {
    val skipped = LinkedHashMap<String, String>()
    for (one in engines) {
        val reason = whyNot(one, machine) ?: return EngineChoice(one.engine, skipped)
        skipped[one.engine] = reason
    }
    return EngineChoice(null, skipped)
}

/** The first thing that the machine lacks, as one phrase. */
private fun whyNot(wanted: PreferredEngine, machine: MachineFacts): String? {
    val chip = machine.chip.orEmpty()
    return when {
        wanted.engine !in machine.engines -> "this program has no engine for it"
        wanted.abis.isNotEmpty() && machine.abi !in wanted.abis -> "it is for ${oneOf(wanted.abis)}, and this is ${machine.abi}"
        wanted.chips.isNotEmpty() && wanted.chips.none { isChip(it, chip) } -> "it is for ${oneOf(wanted.chips)}, and " +
            if (chip.isEmpty()) "this machine does not say which chip it has" else "this chip is $chip"
        else -> wanted.libraries.firstOrNull { library -> library.paths.none { it in machine.files } }?.let(::lacking)
            ?: tooOld(wanted.versions, machine.versions)
            ?: machine.failed[wanted.engine]?.let { "it was tried here before: $it" }
    }
}

private fun lacking(library: DriverLibrary): String {
    val places = oneOf(library.places)
    val name = library.names.singleOrNull() ?: return "none of ${library.names.joinToString(", ")} is in $places"
    return "$name is not in $places"
}

private fun tooOld(wanted: Map<String, String>, here: Map<String, String?>): String? {
    for ((component, least) in wanted.toSortedMap()) {
        if (component !in here) continue
        val found = here[component] ?: return "it needs $component $least or newer, and there is none"
        if (isOlder(found, least)) return "it needs $component $least or newer, and $found is here"
    }
    return null
}

/** Whether a machine's chip is the one of that name: makers write sm8650, SM8650-AC, MT6989W. */
private fun isChip(name: String, chip: String): Boolean {
    val said = chip.map { if (it in 'a'..'z') it - ('a' - 'A') else it }.joinToString("")
    return said.startsWith(name) && said.drop(name.length).firstOrNull() !in '0'..'9'
}

private fun oneOf(names: List<String>): String =
    if (names.size == 1) names[0] else "${names.dropLast(1).joinToString(", ")} or ${names.last()}"

private val NUMBERS = Regex("[0-9]+(\\.[0-9]+)*")

/** Whether an installed version is older than [least]: by the numbers that they begin with, of which 1.29 is 1.29.0. */
internal fun isOlder(installed: String, least: String): Boolean {
    val (here, wanted) = listOf(installed, least).map { text ->
        NUMBERS.matchAt(text, 0)?.value?.split('.').orEmpty().map { it.toBigInteger() }
    }
    for (at in 0 until maxOf(here.size, wanted.size)) {
        val difference = (here.getOrNull(at) ?: 0.toBigInteger()).compareTo(wanted.getOrNull(at) ?: 0.toBigInteger())
        if (difference != 0) return difference < 0
    }
    return false
}
