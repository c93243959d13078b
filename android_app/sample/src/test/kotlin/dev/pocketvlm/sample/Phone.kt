package dev.pocketvlm.sample

import android.app.Activity
import android.app.ActivityManager
import android.content.Intent
import android.content.res.Configuration
import android.graphics.Insets
import android.graphics.Rect
import android.net.Uri
import android.os.Looper
import android.view.View
import android.view.ViewGroup
import android.view.WindowInsets
import android.widget.TextView
import org.robolectric.Robolectric
import org.robolectric.RuntimeEnvironment
import org.robolectric.Shadows.shadowOf
import org.robolectric.android.controller.ActivityController
import java.io.File
import java.util.concurrent.TimeUnit

internal val BUNDLE = File(checkNotNull(System.getProperty("bundle")) { "-Dbundle=DIRECTORY" })

/** What was drawn for the tests: picture.png, question.txt, and Python's answer in answer.txt. */
internal val CASES = File(checkNotNull(System.getProperty("cases")) { "-Dcases=DIRECTORY" })
internal val QUESTION = CASES.resolve("question.txt").readText()
internal val ANSWER = CASES.resolve("answer.txt").readText()

/** Bars of a phone, in dp: status and navigation; a cut-out at the left in landscape. */
private const val TOP = 24
private const val BOTTOM = 48
private const val CUTOUT = 32

/** The app on a phone of Robolectric's. */
internal class Phone {
    val application get() = RuntimeEnvironment.getApplication() as SampleApplication
    val holder get() = application.holder
    val conversation get() = checkNotNull(holder.conversation) { "no model is open" }
    val controller: ActivityController<MainActivity> = Robolectric.buildActivity(MainActivity::class.java)
    val activity: Activity get() = controller.get()

    /** Pixels of the window that bars, cut-out and keyboard cover, at each side. */
    val bars = Rect()

    init {
        setFreeMemory(4L shl 30)
    }

    fun setFreeMemory(bytes: Long) {
        val manager = checkNotNull(application.getSystemService(ActivityManager::class.java))
        shadowOf(manager).setMemoryInfo(ActivityManager.MemoryInfo().apply { availMem = bytes; totalMem = bytes })
    }

    /** Starts the app; it opens the bundle that was [push]ed. */
    fun start(): Phone = apply {
        controller.setup()
        showBars()
    }

    fun <T : View> view(id: Int): T = activity.find(id)

    fun text(id: Int): String = view<TextView>(id).text.toString()

    fun touch(id: Int) {
        val view = view<View>(id)
        check(view.isShown && view.isEnabled) { "${nameOf(view)} cannot be touched" }
        check(view.performClick()) { "${nameOf(view)} does nothing" }
        idle()
    }

    fun menu(id: Int) {
        check(shadowOf(activity).clickMenuItem(id)) { "the menu item does nothing" }
        idle()
    }

    /** Chooses a picture as the picker app gives it. */
    fun choosePicture(picture: File = CASES.resolve("picture.png")) {
        touch(R.id.choose_picture)
        answerWith(Intent().setData(Uri.fromFile(picture)))
        waitForPicture()
    }

    /** What the app that was asked last answers. */
    fun answerWith(data: Intent?) {
        val asked = shadowOf(activity).nextStartedActivityForResult
        shadowOf(activity).receiveResult(asked.intent, Activity.RESULT_OK, data)
        idle()
    }

    fun ask(question: String) {
        view<TextView>(R.id.question).text = question
        touch(R.id.ask)
    }

    /** The text of the newest answer. */
    fun lastAnswer(): TextView = view<ViewGroup>(R.id.transcript).let { it.getChildAt(it.childCount - 1).find(R.id.message_text) }

    /** Asks what was typed, and stops the clock when some of the answer, and not all, is on the screen. */
    fun askUntilStreaming() {
        val question = text(R.id.question)
        val looper = shadowOf(Looper.getMainLooper())
        while (true) {
            view<View>(R.id.ask).performClick()
            while (conversation.isBusy) {
                looper.runOneTask()
                if (conversation.isBusy && conversation.running.value?.question != null && isAnswerShown()) return
                Thread.sleep(1)
            }
            menu(R.id.new_chat) // it was faster than the screen
            choosePicture()
            view<TextView>(R.id.question).text = question
        }
    }

    private fun isAnswerShown() = view<ViewGroup>(R.id.transcript).childCount == 2 && lastAnswer().text.isNotEmpty()

    fun waitForModel() = waitUnlessProblem("a model is open") { holder.conversation != null }

    fun waitForPicture() = waitUnlessProblem("the picture is attached") { conversation.pending.value.isNotEmpty() }

    fun waitForAnswer() = waitUnlessProblem("the answer is complete") { !conversation.isBusy }

    private fun waitUnlessProblem(what: String, isSo: () -> Boolean) = waitFor(what) {
        holder.problem.value?.let { error(it.text) }
        isSo()
    }

    /** Turns the phone, changes the theme and so on. */
    fun change(qualifiers: String, fontScale: Float = 1f) {
        RuntimeEnvironment.setQualifiers(qualifiers)
        RuntimeEnvironment.setFontScale(fontScale)
        controller.configurationChange()
        idle()
        if (!activity.window.decorView.isAttachedToWindow) controller.visible()
        showBars()
    }

    /** Bars in front of the app, as Android 15 has them; a [keyboard] of so many dp. */
    fun showBars(keyboard: Int = 0) {
        val density = activity.resources.displayMetrics.density
        val px = { dp: Int -> (dp * density).toInt() }
        val cutout = if (activity.resources.configuration.orientation == Configuration.ORIENTATION_LANDSCAPE) CUTOUT else 0
        bars.set(px(cutout), px(TOP), 0, px(maxOf(BOTTOM, keyboard)))
        val insets = WindowInsets.Builder()
            .setInsets(WindowInsets.Type.systemBars(), Insets.of(0, px(TOP), 0, px(BOTTOM)))
            .setInsets(WindowInsets.Type.displayCutout(), Insets.of(px(cutout), 0, 0, 0))
            .setInsets(WindowInsets.Type.ime(), Insets.of(0, 0, 0, px(keyboard)))
            .build()
        activity.window.decorView.dispatchApplyWindowInsets(insets)
        idle()
        layOut()
    }

    fun layOut() {
        layOut(activity.window.decorView)
        idle()
    }
}

/** Puts the bundle where `adb push` would. */
internal fun push(bundle: File = BUNDLE, name: String = "reader"): File {
    val place = checkNotNull(RuntimeEnvironment.getApplication().getExternalFilesDir("bundles")).resolve(name)
    bundle.copyRecursively(place)
    return place
}

internal fun idle() = shadowOf(Looper.getMainLooper()).idle()

internal fun waitFor(what: String, isSo: () -> Boolean) {
    val end = System.nanoTime() + TimeUnit.SECONDS.toNanos(Integer.getInteger("patience", 300).toLong())
    while (true) {
        idle()
        if (isSo()) return
        check(System.nanoTime() < end) { "never: $what" }
        Thread.sleep(5)
    }
}

/** All views that are shown, with those in them. */
internal fun shownViews(root: View): List<View> = when {
    !root.isShown -> emptyList()
    root is ViewGroup -> listOf(root) + (0 until root.childCount).flatMap { shownViews(root.getChildAt(it)) }
    else -> listOf(root)
}

internal fun nameOf(view: View): String =
    runCatching { view.resources.getResourceEntryName(view.id) }.getOrDefault(view.javaClass.simpleName) // views without a name
