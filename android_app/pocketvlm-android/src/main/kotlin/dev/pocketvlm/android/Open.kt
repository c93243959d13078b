package dev.pocketvlm.android

import android.content.Context
import android.system.Os
import dev.pocketvlm.KvMemory
import dev.pocketvlm.LoadStep
import dev.pocketvlm.Options
import dev.pocketvlm.PocketVlm
import dev.pocketvlm.PocketVlmException.EngineFailed
import dev.pocketvlm.PocketVlmException.NoMemory
import dev.pocketvlm.bundle.oneLineOf
import java.io.File

/**
 * [PocketVlm.open] as an app calls it, from any thread. Beside what that does:
 *
 * - ONNX Runtime's telemetry is switched off before its first class is loaded;
 * - a bundle whose predicted need is more than the memory that the system gives without stopping apps is refused before it
 *   is loaded. [Options.memoryBudget] replaces this: then only that number counts;
 * - KV caches lie in [SharedKvMemory], and what was read of a tokenizer in the app's cache directory, unless
 *   [Options.kvMemory] and [Options.cacheDirectory] say another place;
 * - until it is closed the model gives memory back when the system asks for it ([trimsFor] has the table).
 *
 * @param context of anything in the app; the application's own is kept
 * @throws NoMemory it needs more than is free, or than the budget
 * @throws EngineFailed the app has no ONNX Runtime for this device's processor; or as [PocketVlm.open], as all else
 */
public suspend fun PocketVlm.Companion.open(
    context: Context,
    bundle: File,
    options: Options = Options(),
    onProgress: (LoadStep) -> Unit = {},
): PocketVlm {
    switchTelemetryOff()
    val application = context.applicationContext ?: context // there is none while the application itself is made
    val model = try {
        openAdmitted(bundle, onAndroid(options, application), onProgress) { info ->
            if (options.memoryBudget == 0L) checkMemory(info.name, info.predictedMemoryBytes, freeMemory(application))
        }
    } catch (error: LinkageError) {
        val reason = oneLineOf(error)
        throw EngineFailed("ONNX Runtime cannot be loaded: the app lacks it for this device's processor ($reason)", error)
    }
    return model.also { trimOnPressure(application, it) }
}

/** What ONNX Runtime reads when it starts; the environment of a process is the app's own. */
internal fun switchTelemetryOff() {
    Os.setenv("ORT_DISABLE_TELEMETRY", "1", true)
}

private fun onAndroid(options: Options, application: Context) = Options(
    threads = options.threads,
    keepVision = options.keepVision,
    imageCacheBytes = options.imageCacheBytes,
    memoryBudget = options.memoryBudget,
    verify = options.verify,
    cacheDirectory = options.cacheDirectory ?: File(application.cacheDir, "pocketvlm"),
    kvMemory = if (options.kvMemory === KvMemory.Direct) SharedKvMemory else options.kvMemory,
    engine = options.engine,
)
