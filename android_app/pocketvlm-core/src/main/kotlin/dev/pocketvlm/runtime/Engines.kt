package dev.pocketvlm.runtime

import dev.pocketvlm.ONNXRUNTIME_VERSION
import dev.pocketvlm.PocketVlmException.NotPortable
import dev.pocketvlm.bundle.EngineChoice
import dev.pocketvlm.bundle.MachineFacts
import dev.pocketvlm.bundle.Manifest
import dev.pocketvlm.bundle.PreferredEngine
import dev.pocketvlm.bundle.choose
import dev.pocketvlm.bundle.oneLine

/** The engine that this library has: ONNX Runtime on the CPU. */
internal const val ONNX = "onnx"
private val ENGINES = setOf(ONNX)

/** Android's names of what the JVM calls its processor. */
private val ABIS = mapOf("aarch64" to "arm64-v8a", "arm64" to "arm64-v8a", "amd64" to "x86_64", "x86_64" to "x86_64")

/** The engines of a bundle that may be chosen, best first: those that this library has, where the bundle says nothing. */
internal fun preferenceOf(manifest: Manifest): List<PreferredEngine> =
    manifest.preference.ifEmpty { ENGINES.filter { it in manifest.engines }.map { PreferredEngine(it) } }

/**
 * What this library has of what engines need, whose chip and drivers are not asked for: only what runs on the CPU gets so far.
 * [failed]: engine -> how it ended when it was tried here.
 */
internal fun factsHere(failed: Map<String, String> = emptyMap()): MachineFacts {
    val processor = System.getProperty("os.arch").orEmpty()
    val versions = mapOf("onnxruntime" to ONNXRUNTIME_VERSION)
    return MachineFacts(ENGINES, null, ABIS[processor] ?: oneLine(processor, 40), versions, failed = failed)
}

/**
 * The engine that is to run a bundle: the one that was [asked] for, or the best that runs here.
 *
 * @throws NotPortable this library has none for it; the line has each one's reason
 */
internal fun engineOf(manifest: Manifest, asked: String?): EngineChoice {
    if (asked != null) {
        if (asked !in ENGINES) throw NotPortable("this library has no engine ${oneLine(asked, 40)}: it runs ${ENGINES.joinToString()}")
        return EngineChoice(asked)
    }
    val listed = preferenceOf(manifest)
    val choice = choose(listed, factsHere())
    if (choice.engine != null) return choice
    if (listed.isEmpty()) throw NotPortable("the bundle has no ONNX graphs: export it with --backend onnx")
    throw NotPortable("no engine of the bundle runs here: ${choice.skipped.entries.joinToString("; ") { "${it.key}: ${it.value}" }}")
}
