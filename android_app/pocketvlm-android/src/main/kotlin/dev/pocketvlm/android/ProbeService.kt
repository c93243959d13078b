package dev.pocketvlm.android

import android.app.Service
import android.content.Intent
import android.os.Bundle
import android.os.Handler
import android.os.IBinder
import android.os.Looper
import android.os.Message
import android.os.Messenger
import android.os.Process
import android.os.RemoteException
import dev.pocketvlm.GenerationConfig
import dev.pocketvlm.Image
import dev.pocketvlm.Options
import dev.pocketvlm.PocketVlm
import dev.pocketvlm.PocketVlmException
import dev.pocketvlm.PocketVlmException.NoMemory
import kotlinx.coroutines.runBlocking
import java.io.File
import kotlin.concurrent.thread

/** The process `:pocketvlm_probe` of [EngineProbe]; nobody but the app can bind to it. It takes one bundle and an engine of it, then ends. */
public class ProbeService : Service() {
    private val messenger = Messenger(Handler(Looper.getMainLooper()) { question -> begin(Message.obtain(question)) })

    override fun onBind(intent: Intent): IBinder = messenger.binder

    /** The system would keep the process, with all that a model took. */
    override fun onDestroy() {
        super.onDestroy()
        Process.killProcess(Process.myPid())
    }

    private fun begin(question: Message): Boolean {
        val bundle = File(question.data.getString(PROBE_BUNDLE).orEmpty())
        val engine = question.data.getString(PROBE_ENGINE)
        val replies = question.replyTo ?: return false
        thread(name = "pocketvlm-probe") {
            val reply = runBlocking { probe(bundle, engine) }
            try {
                replies.send(reply)
            } catch (error: RemoteException) {
                // whoever asked is gone
            }
        }
        return true
    }

    private suspend fun probe(bundle: File, engine: String?): Message = try {
        PocketVlm.open(this, bundle, Options(engine = engine)).use { model ->
            val images = if (model.info.seesImages) listOf(Image.rgb(ByteArray(3), 1, 1)) else emptyList()
            model.ask("a", images, GenerationConfig(maxNewTokens = 1))
        }
        Message.obtain(null, PROBE_ANSWERED)
    } catch (error: NoMemory) {
        Message.obtain(null, PROBE_UNDECIDED)
    } catch (error: OutOfMemoryError) {
        Message.obtain(null, PROBE_UNDECIDED)
    } catch (error: PocketVlmException) {
        Message.obtain(null, PROBE_FAILED).apply { data = Bundle().apply { putString(PROBE_REASON, error.message) } }
    }
}
