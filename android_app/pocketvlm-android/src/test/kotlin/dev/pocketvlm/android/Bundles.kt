package dev.pocketvlm.android

import android.content.ComponentCallbacks
import android.content.Context
import android.content.ContextWrapper
import dev.pocketvlm.Answer
import dev.pocketvlm.GenerationConfig
import dev.pocketvlm.Image
import dev.pocketvlm.PocketVlm
import org.junit.Assert.assertTrue
import java.io.File
import java.util.concurrent.CopyOnWriteArrayList

/** The built-in model, as Python exported it. */
internal val bundle: File by lazy { File(cases().resolve("bundle.txt").readText()) }

internal suspend fun answerOf(model: PocketVlm): Answer {
    val picture = Image.encoded(cases().resolve("picture.png").readBytes())
    return model.ask("What is the total?", listOf(picture), GenerationConfig(maxNewTokens = 16))
}

/** Its callbacks are to be seen. */
internal class Watched(context: Context) : ContextWrapper(context) {
    val callbacks = CopyOnWriteArrayList<ComponentCallbacks>()

    override fun getApplicationContext(): Context = this

    override fun registerComponentCallbacks(callback: ComponentCallbacks) {
        callbacks.add(callback)
    }

    override fun unregisterComponentCallbacks(callback: ComponentCallbacks) {
        assertTrue(callbacks.remove(callback))
    }
}

/** Waits for what another thread does. */
internal fun waitUntil(what: String, isSo: () -> Boolean) {
    val end = System.nanoTime() + 300_000_000_000L
    while (!isSo()) {
        assertTrue("$what: not within five minutes", System.nanoTime() < end)
        Thread.sleep(10)
    }
}
