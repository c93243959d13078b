package dev.pocketvlm.android

import android.content.ComponentName
import android.content.Context
import android.content.Intent
import android.content.ServiceConnection
import android.os.Bundle
import android.os.Handler
import android.os.IBinder
import android.os.Looper
import android.os.Message
import android.os.Messenger
import android.os.RemoteException
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.withTimeoutOrNull
import java.io.File

internal const val PROBE_BUNDLE = "bundle"
internal const val PROBE_ENGINE = "engine"
internal const val PROBE_REASON = "reason"
internal const val PROBE_ANSWERED = 1
internal const val PROBE_FAILED = 2
internal const val PROBE_UNDECIDED = 3

/** Of a probe: a load from slow flash, and a prompt on an engine that compiles at first. */
private const val LIMIT_MILLISECONDS = 10 * 60 * 1000L

/** The app's end of [ProbeService]. */
internal class RemoteProbe(private val context: Context, private val limit: Long = LIMIT_MILLISECONDS) {
    /** How the probe of [bundle] by its [engine] ends. The service's process ends with it. */
    suspend fun run(bundle: File, engine: String): ProbeEvent {
        val verdict = CompletableDeferred<ProbeEvent>()
        val connection = ProbeConnection(bundle, engine, verdict)
        val intent = Intent(context, ProbeService::class.java)
        try {
            if (!context.bindService(intent, connection, Context.BIND_AUTO_CREATE)) return ProbeEvent.Undecided
            return withTimeoutOrNull(limit) { verdict.await() } ?: ProbeEvent.Undecided
        } finally {
            context.unbindService(connection)
        }
    }
}

/** Called on the main thread. */
private class ProbeConnection(
    private val bundle: File,
    private val engine: String,
    private val verdict: CompletableDeferred<ProbeEvent>,
) : ServiceConnection {
    private val replies = Messenger(Handler(Looper.getMainLooper()) { message -> verdict.complete(eventOf(message)) })

    override fun onServiceConnected(name: ComponentName, service: IBinder) {
        val question = Message.obtain()
        question.data = Bundle().apply {
            putString(PROBE_BUNDLE, bundle.absolutePath)
            putString(PROBE_ENGINE, engine)
        }
        question.replyTo = replies
        try {
            Messenger(service).send(question)
        } catch (error: RemoteException) {
            verdict.complete(ProbeEvent.Died)
        }
    }

    override fun onServiceDisconnected(name: ComponentName) {
        verdict.complete(ProbeEvent.Died)
    }

    override fun onBindingDied(name: ComponentName) {
        verdict.complete(ProbeEvent.Died)
    }
}

private fun eventOf(message: Message): ProbeEvent = when (message.what) {
    PROBE_ANSWERED -> ProbeEvent.Answered
    PROBE_FAILED -> ProbeEvent.Failed(message.data.getString(PROBE_REASON) ?: "it does not say why")
    else -> ProbeEvent.Undecided
}
