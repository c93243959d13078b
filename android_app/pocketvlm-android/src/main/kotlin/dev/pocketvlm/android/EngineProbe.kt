package dev.pocketvlm.android

import android.content.Context
import dev.pocketvlm.PocketVlm
import dev.pocketvlm.PocketVlmException
import dev.pocketvlm.PocketVlmException.EngineFailed
import dev.pocketvlm.bundle.EngineChoice
import dev.pocketvlm.bundle.choose
import dev.pocketvlm.runtime.factsHere
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import kotlinx.coroutines.withContext
import java.io.File
import java.io.IOException

/**
 * The bundle that [EngineProbe.firstThatWorks] found.
 *
 * @property bundle the first of those asked about that loads and answers on this device
 * @property engine the one of its engines that did, best first by its own preference: for [dev.pocketvlm.Options.engine]
 * @property skipped its engines that are better and do not run here, each with the reason in one line
 * @property refused the bundles before it, each with the reason in one line: to be shown, or logged
 */
public class ProbeChoice internal constructor(
    public val bundle: File,
    public val engine: String,
    public val skipped: Map<String, String>,
    public val refused: Map<File, String>,
)

/**
 * Finds out in a process of its own whether a bundle runs on this device, and by which of its engines. Drivers of some accelerators end the process
 * that asks too much of them, which no app can catch: it would end whenever it starts. The probe loads the bundle and asks
 * for one token, about a picture where the model sees them. The verdict is kept for this bundle, engine, library and system
 * image: the second load costs its time only once, and a crash ends a process only once.
 *
 * A process that goes without a word is started once more, since the system also stops processes for want of memory; then
 * the bundle is refused for good. Too little memory decides nothing. Any thread; one probe at a time.
 */
public class EngineProbe internal constructor(private val directory: File, private val probe: suspend (File, String) -> ProbeEvent) {
    public constructor(context: Context) : this(
        File(context.noBackupFilesDir, "pocketvlm/probes"),
        RemoteProbe(context.applicationContext)::run,
    )

    /**
     * The first of [bundles], best first, that loads and answers. Those behind it are not looked at.
     *
     * @throws EngineFailed none does; the line has each one's reason
     * @throws IOException a verdict cannot be written
     * @throws PocketVlmException a bundle is damaged, too new or not portable: that is no matter of the device
     */
    public suspend fun firstThatWorks(bundles: List<File>): ProbeChoice = lock.withLock {
        val refused = LinkedHashMap<File, String>()
        for (bundle in bundles) {
            val found = engineOf(bundle)
            if (found.engine != null) return@withLock ProbeChoice(bundle, found.engine, found.skipped, refused)
            refused[bundle] = reasonOf(found)
        }
        val reasons = refused.entries.joinToString("; ") { "${it.key.name}: ${it.value}" }
        throw EngineFailed("no bundle runs on this device: $reasons")
    }

    /** The best engine of a bundle that loads and answers here; those that fail are skipped with what they said. */
    private suspend fun engineOf(bundle: File): EngineChoice = withContext(Dispatchers.IO) {
        val info = PocketVlm.inspect(bundle)
        val failed = LinkedHashMap<String, String>()
        var choice = choose(info.preference, factsHere())
        while (true) {
            val engine = choice.engine ?: break
            failed[engine] = whyNot(bundle, ProbeRecord(directory, info, engine), engine) ?: break
            choice = choose(info.preference, factsHere(failed))
        }
        EngineChoice(choice.engine, choice.skipped + failed)
    }

    private fun reasonOf(choice: EngineChoice): String =
        choice.skipped.values.singleOrNull() ?: choice.skipped.entries.joinToString("; ") { "${it.key}: ${it.value}" }
            .ifEmpty { "it has no engine for this library" }

    /** Null where it works. */
    private suspend fun whyNot(bundle: File, record: ProbeRecord, engine: String): String? {
        // Whoever watched the probe went with it, or the phone did.
        var state = record.read().let { if (it is ProbeState.Running) it.after(ProbeEvent.Died) else it }
        var event: ProbeEvent? = null
        while (state is ProbeState.Unknown && event != ProbeEvent.Undecided) {
            state = state.after(ProbeEvent.Started)
            record.write(state)
            event = try {
                probe(bundle, engine)
            } catch (stopped: CancellationException) {
                record.write(state.after(ProbeEvent.Undecided)) // no fault of the bundle
                throw stopped
            }
            state = state.after(event)
        }
        record.write(state)
        return when (state) {
            ProbeState.Works -> null
            is ProbeState.Fails -> state.reason
            else -> "it could not be tried just now: too little memory is free, or it took too long"
        }
    }

    private companion object {
        /** Of all probes of the app, whose records and service are the same. */
        val lock = Mutex()
    }
}
